//! The built program.

use super::{Fake, soon};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

/// A program that runs.
pub struct Program {
    pub child: Child,
    stdout: Option<Lines<BufReader<ChildStdout>>>,
    stderr: Option<BufReader<ChildStderr>>,
    /// What was read of standard error so far.
    complained: String,
    said: Vec<String>,
}

/// A program that ended.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    /// Lines of standard output, from the first.
    pub stdout: Vec<String>,
    pub stderr: String,
}

impl Program {
    pub fn start(fake: &Fake, args: &[&str]) -> Self {
        Self::spawn(Self::command(fake, args))
    }

    /// The program with its socket, to be changed before it is spawned.
    pub fn command(fake: &Fake, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sternline"));
        command.args(args).env("STERNLINE_SOCKET", &fake.socket);
        command
    }

    pub fn spawn(command: Command) -> Self {
        Self::spawn_on(command, Stdio::null())
    }

    /// Spawned with this standard input.
    pub fn spawn_on(mut command: Command, stdin: Stdio) -> Self {
        let mut child = command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().map(|out| BufReader::new(out).lines());
        let stderr = child.stderr.take().map(BufReader::new);
        Self {
            child,
            stdout,
            stderr,
            complained: String::new(),
            said: Vec::new(),
        }
    }

    /// The next line of standard output.
    pub async fn line(&mut self) -> String {
        let lines = self.stdout.as_mut().unwrap();
        let line = soon("a line", lines.next_line()).await.unwrap();
        let line = line.expect("a line before the end");
        self.said.push(line.clone());
        line
    }

    /// Waits for one more line of standard error.
    pub async fn complains(&mut self) {
        let lines = self.stderr.as_mut().unwrap();
        let line = lines.read_line(&mut self.complained);
        assert_ne!(soon("a complaint", line).await.unwrap(), 0, "the end");
    }

    /// Waits for a line of standard error that has these words.
    pub async fn complains_of(&mut self, words: &str) {
        while !self.complained.contains(words) {
            self.complains().await;
        }
    }

    /// The next line as JSON.
    pub async fn event(&mut self) -> serde_json::Value {
        let line = self.line().await;
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?} is not JSON: {e}"))
    }

    /// Closes our end of standard output.
    pub fn close_stdout(&mut self) {
        self.stdout = None;
    }

    pub fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.id().unwrap().cast_signed())
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(self.pid(), signal).unwrap();
    }

    /// Waits for the end.
    pub async fn end(mut self) -> Run {
        let mut stderr = std::mem::take(&mut self.complained);
        let mut from = self.stderr.take().unwrap();
        let rest = async {
            let mut rest = Vec::new();
            if let Some(lines) = &mut self.stdout {
                while let Ok(Some(line)) = lines.next_line().await {
                    rest.push(line);
                }
            }
            rest
        };
        let (rest, _, status) = soon("the end", async {
            tokio::join!(rest, from.read_to_string(&mut stderr), self.child.wait())
        })
        .await;
        let mut stdout = self.said;
        stdout.extend(rest);
        let status = status.unwrap();
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        let code = status.code().unwrap_or_else(|| -signal.unwrap_or(0));
        Run {
            code,
            stdout,
            stderr,
        }
    }

    /// Runs to the end.
    pub async fn run(fake: &Fake, args: &[&str]) -> Run {
        Self::start(fake, args).end().await
    }
}

impl Run {
    /// Fails unless the program ended with `code` and said `what` as its error.
    #[track_caller]
    pub fn failed(&self, code: i32, what: &str) {
        assert_eq!(self.code, code, "{self:?}");
        let is_error =
            |line: &&str| line.starts_with("error: ") || line.starts_with("Error from server");
        let error = self.stderr.lines().find(is_error);
        let error = error.unwrap_or_else(|| panic!("no error: {self:?}"));
        assert!(error.contains(what), "{what:?} is not in {error:?}");
        self.is_clean();
    }

    /// Fails if anything was printed that acts on a terminal, or a secret.
    #[track_caller]
    pub fn is_clean(&self) {
        let all = format!("{}{}", self.stdout.concat(), self.stderr);
        let control = |c: char| c.is_control() && c != '\n';
        assert!(!all.contains(control), "{self:?}");
        assert!(!all.contains("SECRET"), "{self:?}");
    }
}
