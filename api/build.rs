//! Compiles the protos in pure Rust, so that no `protoc` is needed.

use prost::Message as _;
use std::{env, error::Error, fs, path::PathBuf};

const OURS: [&str; 3] = [
    "sternline/v1alpha1/reverse_port_forward.proto",
    "sternline/v1alpha1/control.proto",
    "sternline/v1alpha1/grant.proto",
];
const CRI: &str = "cri/runtime/v1/api.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let ours = protox::compile(OURS, ["proto"])?;
    // Served by gRPC reflection.
    fs::write(out.join("sternline.binpb"), ours.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(ours)?;

    let cri = protox::compile([CRI], ["proto"])?;
    tonic_prost_build::configure()
        .build_server(true)
        .compile_fds(cri)?;
    Ok(())
}
