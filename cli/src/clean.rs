//! Makes strings from a server fit to print.

/// Longest string of a server that is printed, in characters. Sentences are
/// far shorter; a megabyte of them would bury what matters.
const LONGEST: usize = 1000;

/// Drops everything from `text` that could act on a terminal or forge output:
/// control characters (C0 with ESC and line breaks, DEL, C1) and the characters
/// that reorder or hide text. Tabs and line breaks between words become one
/// space, and what is too long is cut.
#[must_use]
pub fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len().min(LONGEST * 4));
    let mut gap = false;
    for (count, character) in text.chars().filter(|c| is_kept(*c)).enumerate() {
        if count == LONGEST {
            cleaned.push_str("...");
            break;
        }
        if matches!(character, '\n' | '\r' | '\t') {
            gap = true;
            continue;
        }
        if std::mem::take(&mut gap) && !cleaned.is_empty() && character != ' ' {
            cleaned.push(' ');
        }
        cleaned.push(character);
    }
    cleaned
}

fn is_kept(character: char) -> bool {
    let breaks = matches!(character, '\n' | '\r' | '\t');
    let hides = matches!(character,
        '\u{200b}'..='\u{200f}' // zero width, left-to-right and right-to-left marks
        | '\u{2028}'..='\u{202e}' // line separators, embeddings and overrides
        | '\u{2060}'..='\u{206f}' // joiners, isolates, deprecated format characters
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}');
    breaks || !(character.is_control() || hides)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_plain_sentence_stays_as_it_is() {
        let sentence = "sandbox \"wéb\": port 80 is taken — näh, ポート";
        assert_eq!(clean(sentence), sentence);
    }

    #[test]
    fn escapes_of_every_kind_lose_their_teeth() {
        assert_eq!(clean("\x1b[2Jgone"), "[2Jgone");
        assert_eq!(clean("\u{9b}2Jgone"), "2Jgone");
        assert_eq!(clean("\u{9d}0;title\u{9c}"), "0;title");
        assert_eq!(clean("bell\x07 back\x08 del\x7f"), "bell back del");
        assert_eq!(clean("abc\u{202e}fdp.exe"), "abcfdp.exe");
    }

    #[test]
    fn one_string_stays_one_line() {
        assert_eq!(clean("a\r\n\tb\nerror: forged\n"), "a b error: forged");
        assert_eq!(clean("\n a"), " a");
    }

    #[test]
    fn a_flood_is_cut() {
        let cut = clean(&"x".repeat(1_000_000));
        assert_eq!(cut.len(), LONGEST + 3);
        assert!(cut.ends_with("..."));
    }

    proptest! {
        #[test]
        fn no_control_character_survives(text: String) {
            prop_assert!(!clean(&text).chars().any(char::is_control));
        }

        #[test]
        fn cleaning_twice_changes_nothing(text in ".{0,200}") {
            prop_assert_eq!(clean(&clean(&text)), clean(&text));
        }
    }
}
