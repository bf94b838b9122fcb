//! What is installed beside the programs, made from their own command lines:
//! manual pages, and scripts by which shells complete. Needed at build time
//! alone, so it is a program of its own and in none that is shipped.

mod facts;
mod page;
mod prose;

pub use page::{Page, pages};

use std::fs;
use std::io;
use std::path::Path;
use sternline_cli::args::Shell;
use sternline_cli::commands::script;

/// Where each shell looks for scripts, below `share/`.
pub const COMPLETIONS: [(Shell, &str); 4] = [
    (Shell::Bash, "bash-completion/completions/sternline"),
    (Shell::Zsh, "zsh/site-functions/_sternline"),
    (Shell::Fish, "fish/vendor_completions.d/sternline.fish"),
    // PowerShell looks nowhere by itself.
    (Shell::PowerShell, "sternline/sternline.ps1"),
];

/// Writes everything below a directory, which is made where it is missing.
///
/// # Errors
/// The file system's.
pub fn write(share: &Path) -> io::Result<()> {
    for page in pages() {
        put(&share.join(page.path()), page.roff()?.as_bytes())?;
    }
    for (shell, path) in COMPLETIONS {
        put(&share.join(path), &script(shell))?;
    }
    Ok(())
}

fn put(file: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(file, content)
}
