//! Completions and manual pages of both programs: each is what its reader can read, and has every
//! option that `--help` has.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::{daemon, has};

fn programs() -> [PathBuf; 2] {
    [env!("CARGO_BIN_EXE_echo-client").into(), daemon::program().to_owned()]
}

fn run(program: impl AsRef<Path>, args: &[&str]) -> Output {
    Command::new(program.as_ref()).args(args).output().unwrap()
}

/// What a program prints, which must be all that it has to say.
#[track_caller]
fn printed(program: &Path, args: &[&str]) -> String {
    let output = run(program, args);
    assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The program's own commands: `None` is the program itself.
fn commands(program: &Path) -> Vec<Option<String>> {
    let help = printed(program, &["--help"]);
    let listed = help.split("\nCommands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let named = |line: &str| {
        let name = line.strip_prefix("  ")?.split(' ').next()?;
        (!name.is_empty()).then(|| name.to_owned())
    };
    let names: Vec<_> = listed.lines().filter_map(named).collect();
    assert!(names.len() >= 3, "{names:?}");
    [None].into_iter().chain(names.into_iter().map(Some)).collect()
}

/// The options that `--help` has: `-q`, `--quiet`.
fn options(program: &Path, command: Option<&str>) -> Vec<String> {
    let args: Vec<_> = command.into_iter().chain(["--help"]).collect();
    let mut options = Vec::new();
    for line in printed(program, &args).lines() {
        let line = line.trim_start();
        if line.starts_with('-') {
            let listed = line.split("  ").next().unwrap();
            options.extend(
                listed.split(", ").map(|option| option.split(' ').next().unwrap().to_owned()),
            );
        }
    }
    assert!(options.iter().any(|option| option == "--help"), "{options:?}");
    options
}

#[test]
fn completions_are_read_by_their_shells() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let there = has("completions_are_read_by_their_shells", shell, "--version");
        for program in programs() {
            let text = printed(&program, &["completions", shell]);
            for command in commands(&program) {
                for option in options(&program, command.as_deref()) {
                    // fish has `-l quiet` and `-s q`.
                    let listed = match option.strip_prefix("--") {
                        Some(long) if shell == "fish" => text.contains(&format!(" -l {long}")),
                        None if shell == "fish" => text.contains(&format!(" -s {}", &option[1..])),
                        _ => text.contains(&option),
                    };
                    assert!(listed, "{program:?} {command:?} {shell}: {option}");
                }
            }
            let file = folder.path().join("completions");
            fs::write(&file, text).unwrap();
            if there {
                let read = run(shell, &["-n", file.to_str().unwrap()]);
                assert!(read.status.success() && read.stderr.is_empty(), "{program:?}: {read:?}");
            }
        }
    }
    for program in programs() {
        assert_eq!(run(&program, &["completions", "tcsh"]).status.code(), Some(64));
    }
}

/// bash offers what may stand there, behind a command too.
#[test]
fn bash_completes() {
    let script = r#"
        name=${0##*/}
        source <("$0" completions bash)
        function=$(complete -p "$name" | sed 's/.*-F \([^ ]*\).*/\1/')
        COMP_WORDS=("$name" "$@")
        COMP_CWORD=$#
        "$function" "$name" "${!#}" "${COMP_WORDS[$# - 1]}"
        echo "${COMPREPLY[@]}""#;
    let [client, server] = programs();
    for (program, words, offered) in [
        (&client, &["--conn"][..], "--connect-timeout"),
        (&client, &["send", "--std"], "--stdin-lines"),
        (&client, &["completions", "z"], "zsh"),
        (&server, &["--drain-t"], "--drain-timeout"),
        (&server, &["healthcheck", "--ti"], "--timeout"),
    ] {
        let args = [&["--norc", "-c", script, program.to_str().unwrap()], words].concat();
        let output = run("bash", &args);
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), offered, "{output:?}");
    }
}

/// What a command does is told in full, beyond the line that the list of commands has.
#[test]
fn commands_tell_what_they_do() {
    let [client, _] = programs();
    for (command, line, told) in [
        ("send", "Send messages and print their replies", "anything else is a defect"),
        ("put", "Store files on a server that has a place", "appears whole or not at all"),
        ("get", "Fetch files", "appears whole or not at all"),
        ("ls", "List files: bytes, time of change (UTC), name", ""),
        ("rm", "Remove files", ""),
    ] {
        let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let listed = printed(&client, &["--help"]);
        assert!(words(listed).contains(&format!("{command} {line}")), "{command}");
        for args in [[command, "--help"], ["man", command]] {
            let page = words(printed(&client, &args));
            assert!(page.contains(line) && page.contains(told), "{page}");
        }
    }
}

#[test]
fn manual_pages_are_clean() {
    let folder = tempfile::tempdir().unwrap();
    let test = "manual_pages_are_clean";
    let (mandoc, groff) = (has(test, "mandoc", "-h"), has(test, "groff", "--version"));
    for program in programs() {
        let name = program.file_name().unwrap().to_str().unwrap();
        for command in commands(&program) {
            let args: Vec<_> = ["man"].into_iter().chain(command.as_deref()).collect();
            let page = printed(&program, &args);
            assert!(
                page.contains(".SH NAME") && page.contains(&name.replace('-', "\\-")),
                "{page}"
            );
            let text = page.replace('\\', "");
            for option in options(&program, command.as_deref()) {
                assert!(text.contains(&option), "{name} {command:?}: {option}\n{text}");
            }
            let file = folder.path().join("page");
            fs::write(&file, &page).unwrap();
            let file = file.to_str().unwrap();
            if mandoc {
                let read = run("mandoc", &["-T", "lint", "-W", "error", file]);
                assert!(read.status.success() && read.stdout.is_empty(), "{command:?}: {read:?}");
            }
            if groff {
                let read = run("groff", &["-man", "-ww", "-z", file]);
                assert!(read.status.success() && read.stderr.is_empty(), "{command:?}: {read:?}");
            }
        }
        assert_eq!(run(&program, &["man", "nonsense"]).status.code(), Some(64));
    }
}
