//! Shell completions and manual pages, from the same definitions as `--help`.

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::args::Args;

/// The file that `shell` completes this program's command lines with.
pub(crate) fn completions(shell: Shell) -> Vec<u8> {
    let mut command = Args::command();
    let name = command.get_name().to_owned();
    let mut file = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut file);
    file
}

/// The manual page of the program or of one of its commands, if there is such a command.
pub(crate) fn man(command: Option<&str>) -> Option<Vec<u8>> {
    let mut whole = Args::command();
    whole.build();
    let described = match command {
        Some(name) => whole.find_subcommand(name)?,
        None => &whole,
    };
    let mut page = Vec::new();
    // A vector takes all that is written to it.
    Man::new(described.clone()).render(&mut page).ok().map(|()| page)
}
