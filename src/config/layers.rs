//! The layers of the configuration, merged key by key.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use toml::{Table, Value};

use super::{DEFAULT, Override};
use crate::connect::{is_secret, redact};

/// Environment variables of this prefix set keys: `ADTIDE_SINK__DATA_DIR` sets `sink.data_dir`.
const PREFIX: &str = "ADTIDE_";

/// A section whose keys are not ours: they are whatever librdkafka knows, and may hold dots.
const OPEN_SECTION: &str = "kafka.properties.";

/// The merged values, and for each key that was set where that was.
pub struct Layers {
    pub values: Table,
    pub origins: BTreeMap<String, String>,
}

/// Merges defaults, file, environment and command line.
pub fn merge(file: Option<&Path>, overrides: &[Override]) -> anyhow::Result<Layers> {
    let values: Table = DEFAULT.parse().context("the default configuration")?;
    let mut layers = Layers { values, origins: BTreeMap::new() };
    if let Some(file) = file {
        let origin = file.display().to_string();
        let text =
            std::fs::read_to_string(file).with_context(|| format!("can't read the config file {origin}"))?;
        let table: Table = text.parse().map_err(|error| misread(&origin, &text, &error))?;
        layers.set_table("", table, &origin)?;
    }
    for (name, value) in std::env::vars_os() {
        // What is not UTF-8 is not ours.
        let (Ok(name), Ok(value)) = (name.into_string(), value.into_string()) else { continue };
        // A single underscore is part of a name, so a variable of another tool (ADTIDE_HOME) is not taken for
        // a key.
        if let Some(key) = name.strip_prefix(PREFIX).map(|key| key.to_lowercase().replace("__", "."))
            && (key.contains('.') || layers.get(&key).is_some())
        {
            layers.set_text(&key, &value, &format!("environment variable {name}"))?;
        }
    }
    for (key, value) in overrides {
        layers.set_text(key, value, "command line")?;
    }
    Ok(layers)
}

/// Says where a file is no TOML, without the line, which may hold a secret.
fn misread(origin: &str, text: &str, error: &toml::de::Error) -> anyhow::Error {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let (line, column) =
        (before.matches('\n').count() + 1, before.chars().rev().take_while(|c| *c != '\n').count() + 1);
    anyhow!("{origin}: line {line}, column {column}: {}", error.message())
}

impl Layers {
    fn set_table(&mut self, prefix: &str, table: Table, origin: &str) -> anyhow::Result<()> {
        for (name, value) in table {
            let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
            match value {
                Value::Table(table) => self.set_table(&key, table, origin)?,
                value => self.set(&key, interpolate(value, &key, origin)?, origin)?,
            }
        }
        Ok(())
    }

    /// Sets a key from a text, which is read as what the key's default is.
    fn set_text(&mut self, key: &str, text: &str, origin: &str) -> anyhow::Result<()> {
        let value = match self.get(key) {
            Some(Value::String(_)) => Value::String(text.to_owned()),
            Some(Value::Array(_)) if !text.trim_start().starts_with('[') => {
                text.split(',').map(|item| Value::String(item.trim().to_owned())).collect::<Vec<_>>().into()
            }
            _ => {
                let parsed: Option<Table> = format!("value = {text}").parse().ok();
                parsed
                    .and_then(|mut table| table.remove("value"))
                    .unwrap_or_else(|| Value::String(text.to_owned()))
            }
        };
        self.set(key, value, origin)
    }

    fn set(&mut self, key: &str, value: Value, origin: &str) -> anyhow::Result<()> {
        if let Some(property) = key.strip_prefix(OPEN_SECTION)
            && let Some(properties) =
                self.get_mut(OPEN_SECTION.trim_end_matches('.')).and_then(Value::as_table_mut)
        {
            properties.insert(property.to_owned(), value);
            self.origins.insert(key.to_owned(), origin.to_owned());
            return Ok(());
        }
        let Some(known) = self.get_mut(key) else {
            let hint =
                nearest(key, &self.values).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            bail!("{origin}: unknown key {key}{hint}");
        };
        if known.is_table() {
            bail!("{origin}: {key} is a section; set one of its keys");
        }
        // A whole number will do where a fraction may stand.
        let value = match (&*known, value) {
            (Value::Float(_), Value::Integer(whole)) => Value::Float(whole as f64),
            (_, value) => value,
        };
        if !known.same_type(&value) {
            let (want, found) = (with_article(known.type_str()), with_article(value.type_str()));
            bail!("{origin}: key {key}: want {want}, as in {known}; found {found}");
        }
        *known = value;
        self.origins.insert(key.to_owned(), origin.to_owned());
        Ok(())
    }

    fn get(&self, key: &str) -> Option<&Value> {
        let (section, name) =
            key.rsplit_once('.').map_or((None, key), |(section, name)| (Some(section), name));
        match section {
            Some(section) => self.values.get(section)?.get(name),
            None => self.values.get(name),
        }
    }

    fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        let (section, name) =
            key.rsplit_once('.').map_or((None, key), |(section, name)| (Some(section), name));
        match section {
            Some(section) => self.values.get_mut(section)?.get_mut(name),
            None => self.values.get_mut(name),
        }
    }
}

/// Puts stars in place of what is secret: passwords in addresses, and whatever is named as a secret.
pub fn hide_secrets(values: &mut Table) {
    for (name, value) in values.iter_mut() {
        match value {
            Value::Table(section) => hide_secrets(section),
            value if is_secret(name) => *value = Value::String("***".to_owned()),
            Value::String(text) if name.ends_with("url") || text.contains("://") => *text = redact(text),
            _ => {}
        }
    }
}

/// Replaces `${NAME}`, `${NAME:-default}` and `${file:PATH}` in texts.
fn interpolate(value: Value, key: &str, origin: &str) -> anyhow::Result<Value> {
    Ok(match value {
        Value::String(text) => Value::String(interpolate_text(&text, key, origin)?),
        Value::Array(items) => Value::Array(
            items.into_iter().map(|item| interpolate(item, key, origin)).collect::<Result<_, _>>()?,
        ),
        other => other,
    })
}

fn interpolate_text(text: &str, key: &str, origin: &str) -> anyhow::Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after
            .split_once('}')
            .ok_or_else(|| anyhow!("{origin}: key {key}: \"${{\" without \"}}\"; write ${{NAME}}"))?;
        if let Some(path) = name.strip_prefix("file:") {
            let content = std::fs::read_to_string(path);
            let content =
                content.with_context(|| format!("{origin}: key {key}: can't read the file {path}"))?;
            out.push_str(before);
            out.push_str(content.trim_end_matches(['\r', '\n']));
            rest = after;
            continue;
        }
        let (name, default) =
            name.split_once(":-").map_or((name, None), |(name, default)| (name, Some(default)));
        let value = std::env::var(name).ok().or(default.map(str::to_owned));
        let value = value.ok_or_else(|| {
            anyhow!(
                "{origin}: key {key}: the environment variable {name} is not set; set it, or write ${{{name}:-default}}"
            )
        })?;
        out.push_str(before);
        out.push_str(&value);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// The known key that is most like `key`.
fn nearest(key: &str, known: &Table) -> Option<String> {
    let keys = known.iter().flat_map(|(name, value)| match value {
        Value::Table(section) => section.keys().map(|key| format!("{name}.{key}")).collect(),
        _ => vec![name.clone()],
    });
    // Somebody may have forgotten the section, so the last part counts too.
    let likeness = |known: &String| {
        let last = known.rsplit('.').next().unwrap_or(known);
        strsim::jaro_winkler(key, known)
            .max(strsim::jaro_winkler(key.rsplit('.').next().unwrap_or(key), last) * 0.99)
    };
    keys.map(|known| (likeness(&known), known))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, known)| known)
}

/// The name of a type of TOML with its article.
fn with_article(kind: &str) -> String {
    format!("{} {kind}", if kind.starts_with(['a', 'i']) { "an" } else { "a" })
}
