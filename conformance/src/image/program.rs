//! What a program needs beside itself to run where nothing else is.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path, path::PathBuf, process::Command};

/// Where the image keeps libraries.
pub(super) const LIBRARIES: &str = "/lib";

/// Longest path of a loader that is believed.
const LONGEST: u64 = 4096;

/// The files that a dynamically linked program needs, each with its place in
/// the image; none for a static one.
///
/// # Errors
/// The program is not a 64-bit ELF file of this machine, or its loader cannot
/// say what it needs.
pub(super) fn needs(program: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let Some(loader) = loader(&File::open(program)?)? else {
        return Ok(Vec::new());
    };
    // Both C libraries' loaders know this flag; ldd does no more.
    let listed = Command::new(&loader).arg("--list").arg(program).output()?;
    if !listed.status.success() {
        let said = String::from_utf8_lossy(&listed.stderr);
        return Err(io::Error::other(format!(
            "{loader} --list: {}",
            said.trim()
        )));
    }
    let mut found = libraries(&String::from_utf8_lossy(&listed.stdout));
    found.push((loader.clone(), loader.into()));
    Ok(found)
}

/// Lines `NAME => FILE (ADDRESS)`.
fn libraries(listed: &str) -> Vec<(String, PathBuf)> {
    let each = listed.lines().filter_map(|line| {
        let (name, rest) = line.trim().split_once(" => ")?;
        let file = rest.rsplit_once(" (").map_or(rest, |(file, _)| file);
        let own = file.starts_with('/') && !name.contains('/');
        own.then(|| (format!("{LIBRARIES}/{name}"), file.into()))
    });
    each.collect()
}

/// The path in the PT_INTERP segment of a 64-bit ELF file.
fn loader(file: &File) -> io::Result<Option<String>> {
    const PT_INTERP: u32 = 3;
    let mut head = [0; 64];
    file.read_exact_at(&mut head, 0)?;
    if head[..5] != *b"\x7fELF\x02" {
        return Err(io::Error::other("the program is no 64-bit ELF file"));
    }
    let (table, size) = (word(&head, 32, 8), word(&head, 54, 2));
    for entry in 0..word(&head, 56, 2) {
        let mut segment = [0; 56];
        file.read_exact_at(&mut segment, table + entry * size)?;
        if word(&segment, 0, 4) == u64::from(PT_INTERP) {
            let length = word(&segment, 32, 8).min(LONGEST);
            let mut path = vec![0; usize::try_from(length).unwrap_or(0)];
            file.read_exact_at(&mut path, word(&segment, 8, 8))?;
            let path = String::from_utf8_lossy(&path);
            return Ok(Some(path.trim_end_matches('\0').to_owned()));
        }
    }
    Ok(None)
}

/// A number of `length` bytes, in the machine's order as in its own programs.
fn word(bytes: &[u8], at: usize, length: usize) -> u64 {
    let mut word = [0; 8];
    let part = &bytes[at..at + length];
    match cfg!(target_endian = "little") {
        true => word[..length].copy_from_slice(part),
        false => word[8 - length..].copy_from_slice(part),
    }
    u64::from_ne_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_loaders_print_is_read() {
        let gnu = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibgcc_s.so.1 => /lib/x/libgcc_s.so.1 (0x0000)\n\t\
                   libc.so.6 => /lib/x/libc.so.6 (0x1)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found = libraries(gnu);
        let places: Vec<_> = found.iter().map(|(place, _)| place.as_str()).collect();
        assert_eq!(places, ["/lib/libgcc_s.so.1", "/lib/libc.so.6"]);
        assert_eq!(found[1].1, Path::new("/lib/x/libc.so.6"));
    }

    #[test]
    fn this_program_tells_what_it_needs() {
        let this = std::env::current_exe().expect("a path");
        let found = needs(&this).expect("an ELF file");
        assert!(found.iter().all(|(_, file)| file.is_file()), "{found:?}");
        let dynamic = loader(&File::open(&this).expect("a file")).expect("an ELF file");
        assert_eq!(dynamic.is_some(), !found.is_empty());
    }
}
