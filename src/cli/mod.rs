//! The command line. A command is a file in `cmd` and a row of `table`, from which parsing, help,
//! completion, the manual page and the reference in `docs/command-line.md` derive.

mod answers;
mod args;
mod certificate;
mod check;
mod client;
mod cmd;
mod completion;
mod doctor;
mod environment;
mod error;
mod help;
mod init;
mod layout;
mod man;
mod output;
mod pair;
mod password;
mod run;
mod settings;
mod stranger;
mod table;
mod trace;

pub use run::run;
