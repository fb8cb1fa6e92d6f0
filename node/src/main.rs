//! The `pumasi` program. Everything is in the library: [`pumasi_node::daemon::main`].

use std::process::ExitCode;

fn main() -> ExitCode {
    pumasi_node::daemon::main(std::env::args_os())
}
