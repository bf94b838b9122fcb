//! `sternline-conformance`.

fn main() -> std::process::ExitCode {
    sternline_conformance::main()
}
