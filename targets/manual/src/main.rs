//! `edge-manual`: writes the manual pages and shell completions of the four commands.
//!
//! In: a directory, such as `~/.local/share` or a package's `usr/share`. Out: in it `man/man1/`, a page for each command and
//! subcommand, and completions where bash, fish and zsh look for them. Refused: a directory that cannot be written.
#![forbid(unsafe_code)]

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use bias_patch::{Error, atomic};
use clap::{Command, Parser};
use clap_complete::Shell;

/// Write the manual pages and shell completions of edge-run, edge-patch, edge-export and edge-serve
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Write man/, bash-completion/, fish/ and zsh/ into this directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Where each shell looks below a directory of shared data, and how a command's file is called there.
const SHELLS: [(Shell, &str, &str, &str); 3] = [
    (Shell::Bash, "bash-completion/completions", "", ""),
    (Shell::Fish, "fish/vendor_completions.d", "", ".fish"),
    (Shell::Zsh, "zsh/site-functions", "_", ""),
];

fn main() -> ExitCode {
    match write(&Arguments::parse().directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("edge-manual: {error}");
            ExitCode::FAILURE
        }
    }
}

fn commands() -> [Command; 4] {
    [
        edge_run::command::definition(),
        edge_patch::command::definition(),
        edge_export::command::definition(),
        edge_serve::command::definition(),
    ]
}

/// Writes what belongs to all commands.
fn write(directory: &Path) -> Result<(), Error> {
    for mut command in commands() {
        let name = command.get_name().to_owned();
        for (shell, place, before, after) in SHELLS {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, &name, &mut script);
            write_file(&directory.join(place), &format!("{before}{name}{after}"), &script)?;
        }
        write_pages(command, &directory.join("man/man1"))?;
    }
    Ok(())
}

/// Writes a command's page and those of its subcommands.
fn write_pages(command: Command, place: &Path) -> Result<(), Error> {
    for subcommand in command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
        write_pages(subcommand.clone(), place)?;
    }
    let page = clap_mangen::Man::new(command);
    let (name, mut text) = (page.get_filename(), Vec::new());
    page.render(&mut text).map_err(|source| unwritten(&place.join(&name), source))?;
    write_file(place, &name, &text)
}

fn write_file(place: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    fs::create_dir_all(place).map_err(|source| unwritten(place, source))?;
    atomic::write_file(&place.join(name), bytes)
}

fn unwritten(path: &Path, source: io::Error) -> Error {
    Error::Io { path: path.to_owned(), action: "write", source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_is_in_its_page_and_in_the_completions() {
        let directory = tempfile::TempDir::new().unwrap();
        write(directory.path()).unwrap();
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        for mut command in commands() {
            // Names of subcommands begin with the command's from then on.
            command.build();
            let name = command.get_name().to_owned();
            let bash = read(&format!("bash-completion/completions/{name}"));
            let fish = read(&format!("fish/vendor_completions.d/{name}.fish"));
            let zsh = read(&format!("zsh/site-functions/_{name}"));
            let mut waiting = vec![command];
            while let Some(command) = waiting.pop() {
                if command.get_name() == "help" {
                    continue;
                }
                let page = command.get_display_name().unwrap_or(command.get_name()).to_owned();
                let text = read(&format!("man/man1/{page}.1")).replace("\\-", "-");
                for flag in command.get_arguments().filter(|flag| !flag.is_hide_set()).filter_map(|a| a.get_long()) {
                    let long = format!("--{flag}");
                    for (file, text, what) in
                        [("page", &text, &*long), ("bash", &bash, &long), ("fish", &fish, flag), ("zsh", &zsh, &long)]
                    {
                        assert!(text.contains(what), "{file} of {page}: no {what}");
                    }
                }
                waiting.extend(command.get_subcommands().cloned());
            }
        }
    }

    #[test]
    fn bash_completes_flags_values_and_subcommands() {
        let directory = tempfile::TempDir::new().unwrap();
        write(directory.path()).unwrap();
        for (command, words, expected) in [
            ("edge-run", "--tim", "--timing"),
            ("edge-run", "--output js", "jsonl"),
            ("edge-patch", "evalua", "evaluate"),
            ("edge-patch", "train --class-w", "--class-weights"),
        ] {
            // As bash calls it: the function, the command, the word at the cursor and the one before.
            let script = format!(
                r#"source "$1"
                COMP_WORDS=({command} {words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
                $(complete -p {command} | sed 's/.*-F \([^ ]*\).*/\1/') {command} "${{COMP_WORDS[-1]}}" "${{COMP_WORDS[-2]}}"
                echo "${{COMPREPLY[@]}}""#
            );
            let file = directory.path().join("bash-completion/completions").join(command);
            let output = std::process::Command::new("bash").args(["-c", &script, "bash"]).arg(file).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected, "{command} {words}: {output:?}");
        }
    }
}
