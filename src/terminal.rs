//! Text for terminals.

use std::borrow::Cow;

/// A text in which nothing steers a terminal: control characters, and those that turn the direction of
/// writing, are shown as `\u{1b}`. Ids come from anywhere.
pub fn plain(text: &str) -> Cow<'_, str> {
    if !text.chars().any(steers) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len() + 8);
    for char in text.chars() {
        if steers(char) {
            plain.extend(char.escape_unicode());
        } else {
            plain.push(char);
        }
    }
    Cow::Owned(plain)
}

/// As [`plain`], but lines and tabs stay.
pub fn plain_lines(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|char| !matches!(char, '\n' | '\t') && steers(char)) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.split_inclusive(['\n', '\t']).map(plain_line).collect())
}

fn plain_line(line: &str) -> String {
    let (text, end) = line.split_at(line.trim_end_matches(['\n', '\t']).len());
    plain(text).into_owned() + end
}

fn steers(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(plain("ad 17 ß 🦀"), "ad 17 ß 🦀");
        assert_eq!(plain("\u{1b}[2J\r\n\u{9b}1m\u{202e}"), r"\u{1b}[2J\u{d}\u{a}\u{9b}1m\u{202e}");
        assert_eq!(plain_lines("one\ntwo\t\u{7f}\n"), "one\ntwo\t\\u{7f}\n");
    }
}
