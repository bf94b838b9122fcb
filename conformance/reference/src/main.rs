//! `sternline-reference`.

fn main() -> std::process::ExitCode {
    sternline_reference::main()
}
