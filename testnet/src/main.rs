//! Networks of real daemons on one machine. Without a command: `fire`, the main test of the project.
//! Nothing here is part of a node; it talks to nodes over their HTTP API only.

mod auditor;
mod bench;
mod checker;
mod chores;
mod comeback;
mod corrupt;
mod crash;
mod faults;
mod figures;
mod findings;
mod fire;
mod images;
mod layout;
mod machine;
mod network;
mod options;
mod people;
mod process;
mod repair;
mod report;
mod results;
mod soak;
mod society;
mod standing;
mod storm;
mod table;
mod traffic;
mod trial;
mod view;
mod way_back;
mod workload;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

use crate::options::{Cli, Command};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    // The binary is also the daemon of its own networks, so that one build is enough to run them.
    if arguments
        .peek()
        .is_some_and(|first| first == process::DAEMON)
    {
        return daemon(arguments.skip(1).collect());
    }
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            table::complain(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match cli.command.unwrap_or(Command::Fire(cli.fire)) {
            Command::Fire(options) => fire::run(options).await,
            Command::Up(options) => standing::up(options).await.map(|()| true),
            Command::Down => standing::down().await.map(|()| true),
            Command::Status => standing::status().await,
            Command::Bench(options) => bench::run(options).await.map(|()| true),
            Command::Crash(options) => crash::run(options).await,
            Command::Corrupt(options) => corrupt::run(options).await,
            Command::Soak(options) => soak::run(options).await,
            Command::Sim(options) => Ok(pumasi_sim::main(&options)),
        }
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            table::complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The daemon's role. Tied to its parent, it ends when the parent is gone, whatever ended that; else it
/// stays (`up`).
fn daemon(mut arguments: Vec<OsString>) -> ExitCode {
    if arguments
        .first()
        .is_some_and(|first| first == process::TIED)
    {
        arguments.remove(0);
        process::end_with_parent();
    } else {
        process::leave_terminal();
    }
    pumasi_node::daemon::main(std::iter::once(OsString::from("pumasi")).chain(arguments))
}
