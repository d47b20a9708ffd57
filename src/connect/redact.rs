//! Addresses and settings without what is secret in them.

/// Words in the name of a setting that make its value a secret.
const SECRET: [&str; 13] = [
    "pass",
    "secret",
    "token",
    "credential",
    ".key",
    "key.pem",
    "private",
    "jaas",
    "oauthbearer.config",
    "oauthbearer.extensions",
    "assertion",
    "kinit.cmd",
    "api_key",
];

/// Whether the value of a setting of this name is a secret.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    SECRET.iter().any(|word| name.contains(word))
}

/// The text of an address, or of several, without passwords: those between the user's name and the host of a
/// URL, and those that are given by name, as in `password=...`. What can't be told apart is left out too.
pub fn redact(text: &str) -> String {
    hide_named(&hide_credentials(text))
}

/// Hides what stands before the host, up to the last `@`: a password that was not escaped may hold any
/// character.
fn hide_credentials(text: &str) -> String {
    let (scheme, rest) =
        text.split_once("://").map_or(("", text), |(scheme, rest)| (&text[..scheme.len() + 3], rest));
    let Some((credentials, host)) = rest.rsplit_once('@') else {
        return format!("{scheme}{}", hide_no_port(rest));
    };
    if scheme.is_empty() && credentials.contains([' ', '=']) {
        // Keywords, one of which holds an `@`.
        return text.to_owned();
    }
    let (user, _) = credentials.split_once(':').unwrap_or((credentials, ""));
    let plain = user.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.%".contains(letter));
    let user = if plain { user } else { "***" };
    format!("{scheme}{user}:***@{}", hide_no_port(host))
}

/// Hides what stands where a port does and is none: an address whose `@` was left out has its password there.
fn hide_no_port(rest: &str) -> String {
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (hosts, path) = rest.split_at(end);
    let host = |host: &str| match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') && !port.chars().all(|digit| digit.is_ascii_digit()) => {
            format!("{name}:***")
        }
        _ => host.to_owned(),
    };
    format!("{}{path}", hosts.split(',').map(host).collect::<Vec<_>>().join(","))
}

/// Hides the values of secret names in `name=value`, among blanks or `&`. A value may stand in quotes and
/// have blanks before it.
fn hide_named(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('=') {
        let (before, after) = rest.split_at(at + 1);
        let name = before[..at].trim_end().rsplit([' ', '&', '?', ';', '\'']).next().unwrap_or_default();
        out.push_str(before);
        rest = after;
        if is_secret(name) {
            let value = rest.trim_start();
            out.push_str("***");
            rest = &value[end_of_value(value)..];
        }
    }
    out.push_str(rest);
    out
}

/// Where a value ends that stands at the start of a text.
fn end_of_value(text: &str) -> usize {
    let Some(quoted) = text.strip_prefix('\'') else { return text.find([' ', '&']).unwrap_or(text.len()) };
    let mut escaped = false;
    let end = quoted.find(|letter| {
        let ends = letter == '\'' && !escaped;
        escaped = letter == '\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        let shown = [
            ("postgres://me:secret@host:5432/db", "postgres://me:***@host:5432/db"),
            ("redis://:sec@ret@host/0", "redis://:***@host/0"),
            ("host=h user=me password=secret dbname=d", "host=h user=me password=*** dbname=d"),
            ("host=h password = 'se\\'c ret' dbname=d", "host=h password =*** dbname=d"),
            ("host=h PASSWORD=s@cret user=me", "host=h PASSWORD=*** user=me"),
            ("postgres://host/db?user=me&password=secret", "postgres://host/db?user=me&password=***"),
            (
                "postgres://host/db?password=a&sslpassword=b&x=1",
                "postgres://host/db?password=***&sslpassword=***&x=1",
            ),
            ("postgres://host:5432/db", "postgres://host:5432/db"),
            ("postgres://[::1]/db", "postgres://[::1]/db"),
            ("postgres://one:5432,two:5433/db", "postgres://one:5432,two:5433/db"),
            // Odd ones.
            ("me:secret@host:5432/db", "me:***@host:5432/db"),
            ("postgres://me:secret/with/slashes@host/db", "postgres://me:***@host/db"),
            ("postgres://me:secret/db", "postgres://me:***/db"),
            ("postgres://host/db?password=a@b:c", "postgres://***:***@b:***"),
            ("rediss://secret word@host", "rediss://***:***@host"),
        ];
        for (text, expected) in shown {
            assert_eq!(redact(text), expected);
        }
    }

    #[test]
    fn names_of_secrets() {
        let secret = [
            "sasl.password",
            "sasl.oauthbearer.config",
            "sasl.oauthbearer.client.secret",
            "ssl.key.pem",
            "ssl.key.password",
            "ssl.keystore.password",
            "SASL.Token",
        ];
        assert_eq!(secret.iter().find(|name| !is_secret(name)), None);
        let shown = [
            "sasl.username",
            "security.protocol",
            "ssl.ca.location",
            "socket.timeout.ms",
            "sasl.oauthbearer.method",
        ];
        assert_eq!(shown.iter().find(|name| is_secret(name)), None);
    }
}
