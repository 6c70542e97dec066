//! Shell completions and manual pages, from the same definitions as `--help`.

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::args::Args;

/// What `shell` reads to complete command lines.
pub(crate) fn completions(shell: Shell) -> String {
    let mut file = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "echo-client", &mut file);
    // In two places it spells the hyphen differently, and bash finds no command: clap issue 6421.
    String::from_utf8_lossy(&file).replace("echo__subcmd__client__", "echo__client__")
}

/// The manual page of the program or of one of its commands, if there is such a command.
pub(crate) fn man(command: Option<&str>) -> Option<Vec<u8>> {
    let mut program = Args::command();
    program.build();
    let described = match command {
        Some(name) => program.find_subcommand(name)?,
        None => &program,
    };
    let source = concat!("echo-client ", env!("CARGO_PKG_VERSION"));
    let mut page = Vec::new();
    // A vector takes all that is written to it.
    Man::new(described.clone()).source(source).render(&mut page).ok().map(|()| page)
}
