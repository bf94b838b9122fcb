//! Tests of the destinations, on real files and pipes.

use super::*;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::symlink;
use tempfile::TempDir;

fn place() -> (TempDir, PathBuf) {
    let dir = TempDir::new().expect("directory");
    let path = dir.path().join("audit.log");
    (dir, path)
}

fn write(log: &mut Log, text: &str) {
    log.follow(false).expect("in place");
    let written = log.write(text.as_bytes()).expect("written");
    assert_eq!(written, text.len());
}

fn refusal(path: &Path) -> String {
    match Log::open(path) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{} is an audit log", path.display()),
    }
}

#[test]
fn nobody_else_reads_it_whatever_was_there() {
    let (_dir, path) = place();
    fs::write(&path, "old\n").expect("written");
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("set");
    for _ in 0..2 {
        drop(Log::open(&path).expect("opened"));
        let mode = fs::metadata(&path).expect("there").mode() & 0o7777;
        assert_eq!(mode, 0o600);
    }
    fs::remove_file(&path).expect("removed");
    drop(Log::open(&path).expect("made"));
    let mode = fs::metadata(&path).expect("there").mode() & 0o7777;
    assert_eq!(mode, 0o600);
}

#[test]
fn a_line_that_a_crash_cut_is_ended() {
    let (_dir, path) = place();
    fs::write(&path, "{\"version\":1,\"ev").expect("written");
    let mut log = Log::open(&path).expect("opened");
    write(&mut log, "next\n");
    drop(Log::open(&path).expect("opened again"));
    let text = fs::read_to_string(&path).expect("text");
    assert_eq!(text, "{\"version\":1,\"ev\nnext\n");
}

#[test]
fn a_link_a_directory_and_a_device_are_refused() {
    let (dir, path) = place();
    symlink(dir.path().join("elsewhere"), &path).expect("link");
    assert!(refusal(&path).contains("symbolic link"));
    assert!(!dir.path().join("elsewhere").exists(), "followed");
    assert!(refusal(dir.path()).contains("a directory"));
    assert!(refusal(Path::new("/dev/full")).contains("a device"));
}

#[test]
fn a_file_that_was_moved_away_is_replaced() {
    let (dir, path) = place();
    let mut log = Log::open(&path).expect("opened");
    write(&mut log, "one\n");
    let old = dir.path().join("audit.log.1");
    fs::rename(&path, &old).expect("moved");
    write(&mut log, "two\n");
    assert_eq!(fs::read_to_string(&old).expect("text"), "one\n");
    assert_eq!(fs::read_to_string(&path).expect("text"), "two\n");
    fs::remove_file(&path).expect("removed");
    write(&mut log, "three\n");
    assert_eq!(fs::read_to_string(&path).expect("text"), "three\n");
}

#[test]
fn a_link_put_in_its_place_is_not_followed() {
    let (dir, path) = place();
    let mut log = Log::open(&path).expect("opened");
    let old = dir.path().join("audit.log.1");
    fs::rename(&path, &old).expect("moved");
    symlink(&old, &path).expect("link");
    log.follow(false).expect_err("a link");
    log.follow(true).expect_err("a link");
    fs::remove_file(&path).expect("removed");
    assert!(log.follow(false).expect("a new one"));
}

#[test]
fn a_pipe_that_nobody_reads_fills_and_blocks_nobody() {
    let (_dir, path) = place();
    mkfifo(&path, Mode::from_bits_truncate(0o600)).expect("pipe");
    let mut log = Log::open(&path).expect("opened");
    let line = [b'x'; 1000];
    let mut written = 0;
    let full = loop {
        match log.write(&line) {
            Ok(n) => written += n,
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    let mut reader = File::open(&path).expect("reader");
    let mut read = vec![0; written];
    reader.read_exact(&mut read).expect("all of it");
    assert_eq!(log.write(&line).expect("room again"), line.len());
}
