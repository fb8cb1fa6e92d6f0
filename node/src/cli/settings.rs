//! `config`: show, write and check the configuration. Needs no daemon.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Value, json};

use super::print::{Out, line, table};
use crate::config::{self, Config, Given};
use crate::error::{Error, ErrorKind, Result};
use crate::vault;

/// The most that is read from stdin.
const STDIN_MAX: u64 = 256 * 1024;

/// `pumasi config`.
#[derive(Debug, Subcommand)]
pub(crate) enum Settings {
    /// Print a commented example with every key and its default
    Init {
        /// Write it to the configuration file (or to FILE) instead; never overwrites
        #[arg(long, value_name = "FILE", num_args = 0..=1)]
        write: Option<Option<PathBuf>>,
    },
    /// Print the settings in use
    Show {
        /// Also where each comes from
        #[arg(long)]
        origin: bool,
        #[command(flatten)]
        given: Given,
    },
    /// Check a configuration file
    Check {
        /// The file [default: the one in use]; `-` reads stdin
        file: Option<PathBuf>,
    },
    /// Print the path of the configuration file
    Path,
}

impl Settings {
    pub(crate) fn run(
        self,
        named: Option<&Path>,
        load: impl Fn(Given) -> Result<Config>,
        out: Out,
    ) -> Result<()> {
        match self {
            Self::Init { write: None } => line(config::example().trim_end()),
            Self::Init { write: Some(file) } => {
                let path = match file.as_deref().or(named) {
                    Some(path) => path.to_owned(),
                    None => config::search_path()
                        .into_iter()
                        .next()
                        .ok_or_else(|| Error::invalid("there is no home directory: name a file"))?,
                };
                write_example(&path)?;
                out.one(&json!({ "written": path }), |_: &Value| {
                    format!("Written: {}", path.display())
                })
            }
            Self::Show { origin, given } => {
                let config = load(given)?;
                let entries: Vec<Value> = config
                    .entries()
                    .map(|(key, value, origin)| {
                        json!({ "key": key, "value": value, "origin": origin.to_string() })
                    })
                    .collect();
                out.list(&entries, |_| {
                    if !origin {
                        let lines: Vec<_> = config
                            .entries()
                            .map(|(key, value, _)| format!("{key} = {value}"))
                            .collect();
                        return lines.join("\n");
                    }
                    let rows: Vec<_> = config
                        .entries()
                        .map(|(key, value, origin)| vec![key, value, origin.to_string()])
                        .collect();
                    table(&["KEY", "VALUE", "FROM"], &rows)
                })
            }
            Self::Check { file } => {
                let name = match file {
                    Some(path) if path.as_os_str() == "-" => {
                        let mut text = String::new();
                        io::stdin()
                            .lock()
                            .take(STDIN_MAX)
                            .read_to_string(&mut text)
                            .map_err(|error| {
                                Error::invalid(format!("stdin cannot be read: {error}"))
                            })?;
                        Config::of_text(&text, Path::new("stdin"))?;
                        "stdin".to_owned()
                    }
                    Some(path) => {
                        Config::of_text(&config::read_file(&path)?, &path)?;
                        path.display().to_string()
                    }
                    None => match load(Given::of_environment(&[]))?.file {
                        Some(path) => path.display().to_string(),
                        None => "No configuration file; the defaults".to_owned(),
                    },
                };
                out.one(&json!({ "ok": true, "checked": name }), |_: &Value| {
                    format!("{name}: ok")
                })
            }
            Self::Path => {
                let (path, exists) = match named {
                    Some(path) => (Some(path.to_owned()), path.exists()),
                    None => {
                        let paths = config::search_path();
                        let found = paths.iter().find(|path| path.exists()).cloned();
                        let exists = found.is_some();
                        (found.or_else(|| paths.into_iter().next()), exists)
                    }
                };
                let path = path.unwrap_or_default();
                out.one(&json!({ "path": path, "exists": exists }), |_: &Value| {
                    let note = if exists {
                        ""
                    } else {
                        "  (not there; the defaults are used)"
                    };
                    format!("{}{note}", path.display())
                })
            }
        }
    }
}

fn write_example(path: &Path) -> Result<()> {
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        vault::make_private_dir(parent)?;
    }
    let failed = |error: &io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => Error::new(
            ErrorKind::Exists,
            format!("{} exists and is not overwritten", path.display()),
        ),
        _ => Error::invalid(format!("cannot write {}: {error}", path.display())),
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| failed(&error))?;
    file.write_all(config::example().as_bytes())
        .map_err(|error| failed(&error))
}
