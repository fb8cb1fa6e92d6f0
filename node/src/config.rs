//! Settings of the daemon: one table of keys, from which file, environment, flags, the commented
//! example and `config show` all come. Precedence: flag, then environment, then file, then default.

mod keys;

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use toml::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::node;
use keys::{KEYS, Key, Kind, expected, nearest};

pub(crate) use keys::example;

/// Largest configuration file in bytes.
const FILE_MAX: u64 = 256 * 1024;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody set it.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Env(&'static str),
    /// A flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// What flags and environment gave: for clap, flattened into the commands that take settings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given(BTreeMap<String, (Vec<String>, Option<Origin>)>);

impl clap::Args for Given {
    fn augment_args(command: Command) -> Command {
        // --data-dir is a flag of the whole program, because every command needs it.
        KEYS.iter()
            .filter(|key| key.flag != "data-dir")
            .fold(command, |command, key| {
                let action = if key.kind == Kind::Texts {
                    ArgAction::Append
                } else {
                    ArgAction::Set
                };
                let mut arg = Arg::new(key.flag)
                    .long(key.flag)
                    .env(key.env)
                    .value_name(key.placeholder)
                    .action(action)
                    .help(key.doc.first().copied().unwrap_or_default())
                    .help_heading("Settings (also in the configuration file)")
                    .hide_env_values(true);
                if key.kind == Kind::Texts {
                    arg = arg.value_delimiter(',');
                }
                command.arg(arg)
            })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let mut given = Self::default();
        given.update_from_arg_matches(matches)?;
        Ok(given)
    }

    fn update_from_arg_matches(
        &mut self,
        matches: &ArgMatches,
    ) -> std::result::Result<(), clap::Error> {
        for key in KEYS.iter().filter(|key| key.flag != "data-dir") {
            let origin = match matches.value_source(key.flag) {
                Some(ValueSource::CommandLine) => Origin::Flag(key.flag),
                Some(ValueSource::EnvVariable) => Origin::Env(key.env),
                _ => continue,
            };
            let values = matches
                .get_many::<String>(key.flag)
                .map(|values| values.filter(|value| !value.is_empty()).cloned().collect());
            self.0
                .insert(key.id(), (values.unwrap_or_default(), Some(origin)));
        }
        Ok(())
    }
}

impl Given {
    /// What the environment alone gives for some keys (all when empty): for commands without the flags.
    pub(crate) fn of_environment(ids: &[&str]) -> Self {
        let mut given = Self::default();
        for key in KEYS.iter().filter(|key| key.flag != "data-dir") {
            let wanted = ids.is_empty() || ids.contains(&key.id().as_str());
            let Some(value) = env::var(key.env).ok().filter(|_| wanted) else {
                continue;
            };
            let values = match key.kind {
                Kind::Texts => value.split(',').map(str::to_owned).collect(),
                _ => vec![value],
            };
            let values = values
                .into_iter()
                .filter(|value| !value.is_empty())
                .collect();
            given
                .0
                .insert(key.id(), (values, Some(Origin::Env(key.env))));
        }
        given
    }

    /// Adds `--data-dir` or `PUMASI_DATA_DIR`.
    pub(crate) fn with_data_dir(mut self, dir: Option<&Path>, by_flag: bool) -> Self {
        if let Some(dir) = dir {
            let origin = if by_flag {
                Origin::Flag("data-dir")
            } else {
                Origin::Env("PUMASI_DATA_DIR")
            };
            let value = dir.to_string_lossy().into_owned();
            self.0
                .insert("node.data_dir".to_owned(), (vec![value], Some(origin)));
        }
        self
    }
}

/// Settings, resolved.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    values: BTreeMap<String, (Value, Origin)>,
    /// The file that was read, if any.
    pub(crate) file: Option<PathBuf>,
}

impl Config {
    /// Reads the file (if there is one), then lays environment and flags over it.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for unknown keys, wrong types and values out of range; each names the
    /// key and where it was set. A file that was named and is missing is an error, too.
    pub(crate) fn load(file: Option<&Path>, given: &Given) -> Result<Self> {
        let mut config = Self::defaults()?;
        if let Some(path) = find_file(file)? {
            let text = read_file(&path)?;
            config.lay_file(&text, &path)?;
            config.file = Some(path);
        }
        config.lay_given(given)?;
        config.check()?;
        Ok(config)
    }

    /// Settings of a file alone, for `config check`.
    ///
    /// # Errors
    /// As for [`Config::load`].
    pub(crate) fn of_text(text: &str, path: &Path) -> Result<Self> {
        let mut config = Self::defaults()?;
        config.lay_file(text, path)?;
        config.check()?;
        Ok(config)
    }

    fn defaults() -> Result<Self> {
        let mut values = BTreeMap::new();
        for key in KEYS {
            let table: toml::Table = format!("v = {}", key.default).parse().map_err(|error| {
                Error::new(
                    ErrorKind::Internal,
                    format!("default of {}: {error}", key.id()),
                )
            })?;
            if let Some(value) = table.get("v") {
                values.insert(key.id(), (value.clone(), Origin::Default));
            }
        }
        Ok(Self { values, file: None })
    }

    fn lay_file(&mut self, text: &str, path: &Path) -> Result<()> {
        let at = path.display();
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            Error::invalid(format!(
                "{at} is not TOML: {}",
                error.to_string().trim_end()
            ))
        })?;
        for (section, content) in table {
            if !KEYS.iter().any(|key| key.section == section) {
                let near = nearest(&section, KEYS.iter().map(|key| key.section));
                return Err(Error::invalid(format!(
                    "{at}: unknown section [{section}]{near}"
                )));
            }
            let Value::Table(content) = content else {
                return Err(Error::invalid(format!(
                    "{at}: `{section}` must be a section: write [{section}]"
                )));
            };
            for (name, value) in content {
                let id = format!("{section}.{name}");
                let Some(key) = KEYS.iter().find(|key| key.id() == id) else {
                    let ids: Vec<String> = KEYS.iter().map(Key::id).collect();
                    let near = nearest(&id, ids.iter().map(String::as_str));
                    return Err(Error::invalid(format!("{at}: unknown key {id}{near}")));
                };
                let fits = match key.kind {
                    Kind::Text => value.is_str(),
                    Kind::Flag => value.is_bool(),
                    Kind::Number => value.as_integer().is_some_and(|n| u32::try_from(n).is_ok()),
                    Kind::Texts => value
                        .as_array()
                        .is_some_and(|items| items.iter().all(Value::is_str)),
                };
                if !fits {
                    return Err(Error::invalid(format!(
                        "{at}: {id} must be {}",
                        expected(key.kind)
                    )));
                }
                self.values
                    .insert(id, (value, Origin::File(path.to_owned())));
            }
        }
        Ok(())
    }

    fn lay_given(&mut self, given: &Given) -> Result<()> {
        for key in KEYS {
            let Some((texts, Some(origin))) = given.0.get(&key.id()) else {
                continue;
            };
            let first = texts.first().map(String::as_str).unwrap_or_default();
            let wrong = || {
                Error::invalid(format!(
                    "{origin}: `{first}` cannot be {}: it must be {}",
                    key.id(),
                    expected(key.kind)
                ))
            };
            let value = match key.kind {
                Kind::Text => Value::String(first.to_owned()),
                Kind::Texts => Value::Array(
                    texts
                        .iter()
                        .map(|text| Value::String(text.clone()))
                        .collect(),
                ),
                Kind::Flag => match first {
                    "true" | "yes" | "on" | "1" => Value::Boolean(true),
                    "false" | "no" | "off" | "0" => Value::Boolean(false),
                    _ => return Err(wrong()),
                },
                Kind::Number => Value::Integer(first.parse::<u32>().map_err(|_| wrong())?.into()),
            };
            self.values.insert(key.id(), (value, origin.clone()));
        }
        Ok(())
    }

    /// What a type cannot say.
    fn check(&self) -> Result<()> {
        let wrong = |id: &str, why: &str| {
            let origin = self
                .values
                .get(id)
                .map_or(&Origin::Default, |(_, origin)| origin);
            Err(Error::invalid(format!("{id} ({origin}): {why}")))
        };
        let network = self.text("node.network");
        let named = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if network.is_empty() || network.len() > 32 || !network.chars().all(named) {
            return wrong("node.network", "use 1 to 32 of a-z, 0-9 and -");
        }
        for id in ["listen.addresses", "listen.announce", "node.bootstrap"] {
            if let Some(bad) = self
                .texts(id)
                .iter()
                .find(|address| !address.starts_with('/'))
            {
                return wrong(
                    id,
                    &format!("`{bad}` is not a multiaddress such as /ip4/0.0.0.0/udp/4040/quic-v1"),
                );
            }
        }
        if let Err(error) = self.api_tcp() {
            return wrong("api.listen", error.message());
        }
        if !matches!(self.text("log.format"), "auto" | "text" | "json") {
            return wrong("log.format", "use auto, text or json");
        }
        if self
            .text("log.level")
            .parse::<tracing_subscriber::EnvFilter>()
            .is_err()
        {
            return wrong("log.level", "use error, warn, info, debug or trace");
        }
        if self.api_socket().is_ok_and(|socket| socket.is_none())
            && self.api_tcp().is_ok_and(|tcp| tcp.is_none())
        {
            return wrong(
                "api.socket",
                "both api.socket and api.listen are off: no command could reach the daemon",
            );
        }
        Ok(())
    }

    fn text(&self, id: &str) -> &str {
        self.values
            .get(id)
            .and_then(|(value, _)| value.as_str())
            .unwrap_or_default()
    }

    fn texts(&self, id: &str) -> Vec<String> {
        let items = self.values.get(id).and_then(|(value, _)| value.as_array());
        items
            .map(|items| {
                items
                    .iter()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect()
            })
            .unwrap_or_default()
    }

    fn flag(&self, id: &str) -> bool {
        self.values
            .get(id)
            .and_then(|(value, _)| value.as_bool())
            .unwrap_or_default()
    }

    fn number(&self, id: &str) -> u32 {
        let number = self
            .values
            .get(id)
            .and_then(|(value, _)| value.as_integer());
        number
            .and_then(|number| u32::try_from(number).ok())
            .unwrap_or_default()
    }

    /// The data directory.
    ///
    /// # Errors
    /// When nothing names it and there is no home directory.
    pub(crate) fn data_dir(&self) -> Result<PathBuf> {
        match self.text("node.data_dir") {
            "" => default_data_dir(),
            dir => Ok(PathBuf::from(dir)),
        }
    }

    /// Whether nothing names the data directory.
    pub(crate) fn is_default_data_dir(&self) -> bool {
        self.text("node.data_dir").is_empty()
    }

    /// The API's socket; `None` when it is off.
    ///
    /// # Errors
    /// As for [`Config::data_dir`].
    pub(crate) fn api_socket(&self) -> Result<Option<PathBuf>> {
        match self.text("api.socket") {
            "" => Ok(Some(self.data_dir()?.join("api.sock"))),
            "off" => Ok(None),
            path => Ok(Some(PathBuf::from(path))),
        }
    }

    /// The API's TCP address; `None` when it is off.
    ///
    /// # Errors
    /// When it is not a loopback address with a port.
    pub(crate) fn api_tcp(&self) -> Result<Option<SocketAddr>> {
        let text = self.text("api.listen");
        if matches!(text, "" | "off") {
            return Ok(None);
        }
        let address: SocketAddr = text.parse().map_err(|_| {
            Error::invalid(format!(
                "`{text}` is not an address with a port, such as 127.0.0.1:4041"
            ))
        })?;
        if !address.ip().is_loopback() {
            return Err(Error::invalid(format!(
                "{address} is not loopback: use 127.0.0.1, and an SSH tunnel from elsewhere"
            )));
        }
        Ok(Some(address))
    }

    /// Where the passphrase is, if it is in a file.
    pub(crate) fn passphrase_file(&self) -> Option<PathBuf> {
        Some(self.text("node.passphrase_file"))
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    }

    /// Addresses of nodes to begin with.
    pub(crate) fn bootstrap(&self) -> Vec<String> {
        self.texts("node.bootstrap")
    }

    /// `log.level`.
    pub(crate) fn log_level(&self) -> &str {
        self.text("log.level")
    }

    /// `log.format`.
    pub(crate) fn log_format(&self) -> &str {
        self.text("log.format")
    }

    /// What the node is started with.
    ///
    /// # Errors
    /// As for [`Config::data_dir`].
    pub(crate) fn options(&self, unlock: node::Unlock) -> Result<node::Options> {
        Ok(node::Options {
            data_dir: self.data_dir()?,
            unlock,
            network: self.text("node.network").to_owned(),
            listen: self.texts("listen.addresses"),
            announce: self.texts("listen.announce"),
            bootstrap: self.texts("node.bootstrap"),
            mdns: self.flag("listen.mdns"),
            operator: self.text("node.operator").to_owned(),
            building: self.text("node.building").to_owned(),
            keep_for_contacts: self.flag("node.keep_for_contacts"),
            newcomers: self.number("node.newcomers"),
            replace_after: u64::from(self.number("node.replace_after")),
            local: self.flag("listen.local"),
        })
    }

    /// What of the settings stands in no file that everybody finds, as flags: so that a command that is
    /// shown can be typed as it stands. Begins with a space where there is any.
    pub(crate) fn as_flags(&self) -> String {
        let mut flags = String::new();
        if let Some(file) = &self.file {
            flags.push_str(&format!(" --config {}", quoted(&file.to_string_lossy())));
        }
        for key in KEYS {
            let Some((value, origin)) = self.values.get(&key.id()) else {
                continue;
            };
            if matches!(origin, Origin::Default | Origin::File(_)) {
                continue;
            }
            let texts = match value {
                Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
                Value::String(text) => vec![text.as_str()],
                other => {
                    flags.push_str(&format!(" --{} {other}", key.flag));
                    continue;
                }
            };
            for text in texts {
                flags.push_str(&format!(" --{} {}", key.flag, quoted(text)));
            }
        }
        flags
    }

    /// Every key with its value as in TOML and where it came from, in the order of the example.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (String, String, &Origin)> {
        KEYS.iter().filter_map(|key| {
            let (value, origin) = self.values.get(&key.id())?;
            Some((key.id(), value.to_string(), origin))
        })
    }
}

/// A word as a shell takes it.
pub(crate) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:,@%+=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The files looked for, in order, when none is named.
pub(crate) fn search_path() -> Vec<PathBuf> {
    let mut paths = Vec::new();
    if let Some(home) = base_dir("XDG_CONFIG_HOME", ".config") {
        paths.push(home.join("pumasi/config.toml"));
    }
    paths.push(PathBuf::from("/etc/pumasi/config.toml"));
    paths
}

fn find_file(named: Option<&Path>) -> Result<Option<PathBuf>> {
    if let Some(path) = named {
        return if path.exists() {
            Ok(Some(path.to_owned()))
        } else {
            Err(Error::not_found(format!(
                "the configuration file {} does not exist: make one with `pumasi config init --write \
                 {0}`",
                path.display()
            )))
        };
    }
    Ok(search_path().into_iter().find(|path| path.exists()))
}

/// Reads a configuration file.
///
/// # Errors
/// When it cannot be read, is not UTF-8, or is far too long.
pub(crate) fn read_file(path: &Path) -> Result<String> {
    let failed =
        |why: &dyn fmt::Display| Error::invalid(format!("cannot read {}: {why}", path.display()));
    let length = fs::metadata(path).map_err(|error| failed(&error))?.len();
    if length > FILE_MAX {
        return Err(failed(&format!(
            "it has {length} bytes, at most {FILE_MAX} make sense"
        )));
    }
    fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => failed(&"it is not UTF-8 text"),
        _ => failed(&error),
    })
}

fn base_dir(variable: &str, below_home: &str) -> Option<PathBuf> {
    // The XDG specification: relative paths are to be ignored.
    let absolute = |value: &OsStr| Path::new(value).is_absolute();
    match env::var_os(variable).filter(|value| absolute(value)) {
        Some(dir) => Some(PathBuf::from(dir)),
        None => env::var_os("HOME")
            .filter(|value| absolute(value))
            .map(|home| PathBuf::from(home).join(below_home)),
    }
}

fn default_data_dir() -> Result<PathBuf> {
    base_dir("XDG_DATA_HOME", ".local/share")
        .map(|dir| dir.join("pumasi"))
        .ok_or_else(|| {
            Error::invalid("there is no home directory to keep data in: use --data-dir DIR")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Result<Config> {
        Config::of_text(text, Path::new("/c.toml"))
    }

    fn given(id: &str, value: &str, origin: Origin) -> Given {
        Given([(id.to_owned(), (vec![value.to_owned()], Some(origin)))].into())
    }

    #[test]
    fn the_example_parses_and_equals_the_defaults_also_when_uncommented() {
        let example = example();
        let defaults = Config::defaults().unwrap();
        let values = |config: &Config| -> Vec<(String, String)> {
            config.entries().map(|(id, value, _)| (id, value)).collect()
        };
        assert_eq!(values(&text(&example).unwrap()), values(&defaults));
        let keys: Vec<String> = KEYS.iter().map(|key| format!("#{} = ", key.name)).collect();
        let uncommented: String = example
            .lines()
            .map(|line| match keys.iter().any(|key| line.starts_with(key)) {
                true => format!("{}\n", &line[1..]),
                false => format!("{line}\n"),
            })
            .collect();
        let loaded = text(&uncommented).unwrap();
        assert_eq!(values(&loaded), values(&defaults));
        assert!(
            loaded
                .entries()
                .all(|(_, _, origin)| *origin != Origin::Default)
        );
    }

    #[test]
    fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
        let file = "[node]\nbuilding = \"file\"\n";
        let path = Path::new("/c.toml");
        let mut config = Config::of_text(file, path).unwrap();
        assert_eq!(config.text("node.building"), "file");
        assert_eq!(config.text("node.network"), "main");
        config
            .lay_given(&given("node.building", "env", Origin::Env("X")))
            .unwrap();
        assert_eq!(config.text("node.building"), "env");
        let command = <Given as clap::Args>::augment_args(Command::new("x"));
        let matches = command.get_matches_from(["x", "--building", "flag", "--newcomers", "5"]);
        let flags = <Given as clap::FromArgMatches>::from_arg_matches(&matches).unwrap();
        config.lay_given(&flags).unwrap();
        assert_eq!(config.text("node.building"), "flag");
        assert_eq!(config.number("node.newcomers"), 5);
        let origin = &config.values["node.building"].1;
        assert_eq!(*origin, Origin::Flag("building"));
    }

    #[test]
    fn unknown_keys_are_errors_with_a_suggestion() {
        for (bad, expected) in [
            (
                "[api]\nlisen = \"off\"\n",
                "unknown key api.lisen (did you mean api.listen?)",
            ),
            ("[nod]\n", "unknown section [nod] (did you mean node?)"),
            ("[api]\ncolour = 1\n", "unknown key api.colour: see"),
            (
                "[node]\nnewcomers = \"5\"\n",
                "node.newcomers must be a whole number",
            ),
            (
                "[node]\nnewcomers = -1\n",
                "node.newcomers must be a whole number",
            ),
            ("node = 1\n", "must be a section"),
            ("[listen]\naddresses = [1]\n", "must be a list of texts"),
            (
                "[listen]\naddresses = [\"0.0.0.0:4040\"]\n",
                "is not a multiaddress",
            ),
            ("[api]\nlisten = \"0.0.0.0:4041\"\n", "is not loopback"),
            (
                "[api]\nlisten = \"4041\"\n",
                "is not an address with a port",
            ),
            (
                "[api]\nsocket = \"off\"\n",
                "both api.socket and api.listen are off",
            ),
            ("[log]\nformat = \"xml\"\n", "use auto, text or json"),
            ("[node]\nnetwork = \"Main Net\"\n", "use 1 to 32"),
            ("[node\n", "is not TOML"),
        ] {
            let error = text(bad).unwrap_err();
            assert!(error.message().contains(expected), "{bad:?}: {error}");
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    }

    #[test]
    fn flags_and_sections_follow_one_scheme() {
        for key in KEYS {
            assert!(key.env.starts_with("PUMASI_"));
            if key.name != "data_dir" {
                let env = format!("PUMASI_{}_{}", key.section, key.name).to_uppercase();
                assert_eq!(key.env, env);
            }
            assert!(!key.doc.is_empty() && key.doc.iter().all(|line| line.len() <= 96));
        }
    }

    #[test]
    fn a_flag_that_is_no_number_or_truth_is_refused() {
        let mut config = Config::defaults().unwrap();
        let error = config
            .lay_given(&given("listen.mdns", "maybe", Origin::Flag("mdns")))
            .unwrap_err();
        assert_eq!(
            error.message(),
            "flag --mdns: `maybe` cannot be listen.mdns: it must be true or false"
        );
    }
}
