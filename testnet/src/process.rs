//! One daemon as a process of its own: started, watched, killed by its id, never left behind.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal};
use tokio::signal::unix::SignalKind;

/// First argument that makes this binary a daemon.
pub(crate) const DAEMON: &str = "daemon";
/// Second argument of a daemon that must not outlive the process that started it.
pub(crate) const TIED: &str = "--tied";

/// A daemon that ends with this value, and with this program.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    ended: bool,
}

impl Process {
    /// Starts a daemon whose output goes to a log file. Unless it is to stay, it watches its standard
    /// input, which closes when this program is gone: even `kill -9` of it leaves nothing behind.
    pub(crate) fn start(arguments: &[String], log: &Path, stay: bool) -> Result<Self> {
        Self::start_with(arguments, log, stay, &[])
    }

    /// The same with variables of its own.
    pub(crate) fn start_with(
        arguments: &[String],
        log: &Path,
        stay: bool,
        variables: &[(String, String)],
    ) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write the log {}", log.display()))?;
        let mut command = Command::new(program);
        command.arg(DAEMON).stdout(file.try_clone()?).stderr(file);
        // Settings of the person who starts the test must not reach the nodes under test.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PUMASI_") {
                command.env_remove(name);
            }
        }
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        if stay {
            command.stdin(Stdio::null());
        } else {
            command.arg(TIED).stdin(Stdio::piped());
            // A group of its own: Ctrl-C reaches this program, which then stops its daemons in order.
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
        }
        let child = command
            .args(arguments)
            .spawn()
            .context("cannot start a daemon process")?;
        Ok(Self {
            child,
            ended: false,
        })
    }

    /// Leaves it running when this value ends; returns its id.
    pub(crate) fn leave(mut self) -> u32 {
        self.ended = true;
        self.id()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten();
        self.ended |= status.is_some();
        status
    }

    /// SIGKILL, without waiting for the end.
    pub(crate) fn kill(&mut self) {
        if !self.ended {
            // Fails only when it has ended already.
            drop(self.child.kill());
        }
    }

    /// Waits for the end after [`Self::kill`].
    pub(crate) fn reap(&mut self) {
        if !self.ended {
            drop(self.child.wait());
            self.ended = true;
        }
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&self) {
        if !self.ended {
            signal(self.id(), Signal::TERM);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        self.reap();
    }
}

/// In the daemon's role: ends the process as soon as the parent has closed our standard input.
pub(crate) fn end_with_parent() {
    std::thread::spawn(|| {
        let mut byte = [0; 1];
        while matches!(std::io::stdin().read(&mut byte), Ok(1..)) {}
        std::process::exit(1);
    });
}

/// In the daemon's role: away from the terminal it was started on, which may close.
pub(crate) fn leave_terminal() {
    // Fails only where there is no session to leave.
    let _ = rustix::process::setsid();
}

/// The person stopped it.
#[derive(Debug)]
pub(crate) struct Stopped;

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stopped; nothing is left behind")
    }
}

impl std::error::Error for Stopped {}

/// Waits for Ctrl-C or SIGTERM.
pub(crate) async fn stopped() -> anyhow::Error {
    let terminate = async {
        let mut signals = tokio::signal::unix::signal(SignalKind::terminate())?;
        signals.recv().await.context("no signals any more")
    };
    let result = tokio::select! {
        result = tokio::signal::ctrl_c() => result.map_err(anyhow::Error::from),
        result = terminate => result,
    };
    result.err().unwrap_or_else(|| Stopped.into())
}

/// Sends a signal; one that finds no process is no error.
pub(crate) fn signal(id: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// What tells a process from a later one with the same id: its start time, in ticks since boot.
/// `None`: it is not there (or the system has no /proc).
pub(crate) fn born(id: u32) -> Option<u64> {
    // Field 22; the second field, the name, may itself hold spaces and brackets.
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let rest = &stat[stat.rfind(')')? + 2..];
    let mut fields = rest.split(' ');
    // A zombie has ended, whatever its entry says.
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Whether a process with this id is still the one with that birth; without /proc: whether there is one.
pub(crate) fn is_still(id: u32, birth: Option<u64>) -> bool {
    if Path::new("/proc/self/stat").exists() {
        return birth.is_some() && born(id) == birth;
    }
    i32::try_from(id)
        .ok()
        .and_then(Pid::from_raw)
        .is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_id_and_its_birth() {
        let me = std::process::id();
        let birth = born(me);
        assert!(is_still(me, birth));
        if let Some(birth) = birth {
            assert!(!is_still(me, Some(birth + 1)));
        }
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let (id, birth) = (child.id(), born(child.id()));
        assert!(is_still(id, birth));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_still(id, birth));
    }
}
