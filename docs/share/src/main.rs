//! `sternline-share DIRECTORY`: writes the tree that `share/` of an installation
//! gets.

use anyhow::Context as _;
use std::path::PathBuf;

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args_os().skip(1);
    let (Some(directory), None) = (words.next(), words.next()) else {
        anyhow::bail!("give one directory: what is made is written below it");
    };
    let directory = PathBuf::from(directory);
    sternline_share::write(&directory)
        .with_context(|| format!("cannot write below {}", directory.display()))
}
