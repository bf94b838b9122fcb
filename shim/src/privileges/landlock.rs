//! Landlock: which files serve can reach at all, and whom it dials.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, NetPort, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use std::path::PathBuf;

/// The newest rules that are asked for; an older kernel enforces those it knows.
const NEWEST: ABI = ABI::V6;

/// A descriptor is kept back by opening the first again and again. The others are
/// where random bytes come from in a program that is linked statically with glibc.
const DEVICES: [&str; 3] = ["/dev/null", "/dev/urandom", "/dev/random"];

/// The metrics count what is open.
const DESCRIPTORS: &str = "/proc/self/fd";

/// From here on this thread, and those that it starts, change nothing outside
/// the directories `writable`, read nothing outside these and `readable`, dial no
/// TCP port but those `dialled`, and reach no abstract socket or process outside. Directories that
/// are not there now stay out of reach. Says how much of it holds.
pub(super) fn restrict(writable: &[PathBuf], readable: &[PathBuf], dialled: &[u16]) -> String {
    match apply(writable, readable, dialled) {
        Ok(RulesetStatus::FullyEnforced) => "enforced".to_owned(),
        Ok(RulesetStatus::PartiallyEnforced) => {
            "enforced as far as this kernel knows it".to_owned()
        }
        Ok(RulesetStatus::NotEnforced) => "off, this kernel has none".to_owned(),
        Err(error) => format!("off ({error})"),
    }
}

fn apply(
    writable: &[PathBuf],
    readable: &[PathBuf],
    dialled: &[u16],
) -> Result<RulesetStatus, RulesetError> {
    let ports = dialled.iter();
    let ports = ports.map(|port| Ok::<_, RulesetError>(NetPort::new(*port, AccessNet::ConnectTcp)));
    let own = AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeSock
        | AccessFs::RemoveFile;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::ConnectTcp)?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(writable, own))?
        .add_rules(path_beneath_rules(
            readable,
            AccessFs::ReadFile | AccessFs::ReadDir,
        ))?
        .add_rules(path_beneath_rules(DEVICES, AccessFs::ReadFile))?
        .add_rules(path_beneath_rules([DESCRIPTORS], AccessFs::ReadDir))?
        .add_rules(ports)?
        .restrict_self()?;
    Ok(status.ruleset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_the_own_directories_are_within_reach() {
        let (own, other) = (
            tempfile::tempdir().expect("dir"),
            tempfile::tempdir().expect("dir"),
        );
        let (own, other) = (own.path().to_owned(), other.path().to_owned());
        fs::write(other.join("secret"), "x").expect("written");
        let readable = tempfile::tempdir().expect("dir");
        let read = readable.path().to_owned();
        fs::write(read.join("switch"), "on").expect("written");
        let server = TcpListener::bind("127.0.0.1:0").expect("bound");
        let addr = server.local_addr().expect("bound");
        // Rules belong to a thread: the others of this test go on without.
        let confined = std::thread::spawn(move || {
            let said = restrict(std::slice::from_ref(&own), std::slice::from_ref(&read), &[]);
            fs::read(read.join("switch")).expect("may read");
            fs::write(own.join("new"), "y").expect("may write");
            fs::rename(own.join("new"), own.join("newer")).expect("may rename");
            let listener = UnixListener::bind(own.join("s")).expect("may listen");
            fs::remove_file(own.join("s")).expect("may remove");
            drop(listener);
            for device in DEVICES {
                fs::File::open(device).expect("may open");
            }
            let denied = [
                fs::read(other.join("secret")).err(),
                fs::write(other.join("new"), "y").err(),
                fs::write(read.join("new"), "y").err(),
                fs::read("/etc/passwd").err(),
                TcpStream::connect(addr).err(),
            ];
            (said, denied)
        });
        let (said, denied) = confined.join().expect("confined");
        if said.starts_with("off, this kernel has none") {
            assert!(denied.iter().all(Option::is_none), "{denied:?}");
            return;
        }
        for error in denied {
            assert_eq!(
                error.map(|e| e.kind()),
                Some(ErrorKind::PermissionDenied),
                "{said}"
            );
        }
        drop(server);
    }
}
