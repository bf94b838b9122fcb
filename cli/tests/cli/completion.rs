//! Scripts of `sternline completion`, read by a real bash.

use std::process::{Command, Output};

fn bash(script: &str, words: &[&str]) -> Output {
    // Neither files of the user nor of the system decide what is completed.
    Command::new("bash")
        .args(["--noprofile", "--norc", "-c", script, "bash"])
        .args(words)
        .env("STERNLINE", env!("CARGO_BIN_EXE_sternline"))
        .output()
        .expect("bash")
}

/// What TAB offers after these words, the last of which is begun.
fn offered(words: &[&str]) -> Vec<String> {
    let script = r#"
        set -e
        source <("$STERNLINE" completion bash)
        # The function that is registered, called as bash calls it.
        set -- sternline "$@"
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE}
        function=$(complete -p sternline | sed -E 's/.*-F ([^ ]+).*/\1/')
        before=$((COMP_CWORD - 1))
        "$function" sternline "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[before]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let done = bash(script, words);
    assert!(done.status.success(), "{done:?}");
    assert!(done.stderr.is_empty(), "{done:?}");
    let text = String::from_utf8(done.stdout).expect("text");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn bash_reads_the_script_without_complaint() {
    let done = bash(r#"bash -n <("$STERNLINE" completion bash)"#, &[]);
    assert!(done.status.success(), "{done:?}");
    assert!(done.stderr.is_empty(), "{done:?}");
}

#[test]
fn bash_completes_commands_flags_and_values() {
    assert_eq!(offered(&["for"]), ["forward"]);
    for command in [
        "forward",
        "sessions",
        "stop",
        "status",
        "version",
        "completion",
    ] {
        assert!(offered(&[""]).contains(&command.to_owned()), "{command}");
    }
    assert_eq!(offered(&["forward", "--read"]), ["--ready-file"]);
    assert_eq!(offered(&["version", "--output", "j"]), ["json"]);
    let mut shells = offered(&["completion", ""]);
    shells.retain(|word| !word.starts_with('-'));
    assert_eq!(shells, ["bash", "zsh", "fish", "powershell"]);
}

#[test]
fn a_shell_that_is_not_known_is_a_usage_error() {
    let done = Command::new(env!("CARGO_BIN_EXE_sternline"))
        .args(["completion", "tcsh"])
        .output()
        .expect("starts");
    assert_eq!(done.status.code(), Some(2));
    assert!(done.stdout.is_empty(), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stderr).contains("powershell"));
}
