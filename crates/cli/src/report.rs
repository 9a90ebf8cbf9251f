//! The only renderer of errors: the error, its causes, then what to do.

use crate::command_error::{CommandError, Kind};

/// Most causes shown; an endless chain is a bug that must not hang us.
const MAX_CAUSES: usize = 16;

/// Said about a mistake of ours.
const BUG_HINT: &str = "this is a mistake in agent-vm: please report it with the output above";

/// The text of an error, ending in a line end.
pub(crate) fn render(error: &CommandError) -> String {
    let mut text = format!("error: {}\n", error.error);
    let mut cause = error.error.source();
    let mut said = error.error.to_string();
    for _ in 0..MAX_CAUSES {
        let Some(source) = cause else { break };
        let next = source.to_string();
        if next != said {
            text.push_str(&format!("caused by: {}\n", lower_first(&next)));
        }
        said = next;
        cause = source.source();
    }
    let bug = (error.kind == Kind::Internal).then(|| BUG_HINT.to_owned());
    let hints: Vec<&String> = error.hints.iter().chain(&bug).collect();
    if !hints.is_empty() {
        text.push('\n');
    }
    for hint in hints {
        text.push_str(&format!("hint: {hint}\n"));
    }
    text
}

/// The system's messages begin with a capital letter.
fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), text.chars().nth(1)) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

/// clap's message in our form: without its own `error:` and its pointer to `--help`.
pub(crate) fn usage_text(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let text = text
        .split("\n\nFor more information")
        .next()
        .unwrap_or(text);
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open /dev/kvm")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn error_causes_and_hints_have_the_documented_form() {
        let source = std::io::Error::from_raw_os_error(13);
        let error = CommandError::new(Kind::Host, Outer(source)).hint("log in again");
        assert_eq!(
            render(&error),
            "error: cannot open /dev/kvm\ncaused by: permission denied (os error 13)\n\nhint: log in again\n"
        );
    }

    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    struct Transparent(Outer);

    #[test]
    fn same_text_is_not_repeated() {
        let error = CommandError::new(
            Kind::Host,
            Transparent(Outer(std::io::Error::from_raw_os_error(2))),
        );
        assert_eq!(
            render(&error),
            "error: cannot open /dev/kvm\ncaused by: no such file or directory (os error 2)\n"
        );
    }

    #[test]
    fn mistake_of_ours_asks_for_a_report() {
        let error = CommandError::new(Kind::Internal, std::fmt::Error);
        assert!(render(&error).ends_with(
            "\n\nhint: this is a mistake in agent-vm: please report it with the output above\n"
        ));
    }

    #[test]
    fn words_in_capitals_are_left_alone() {
        assert_eq!(lower_first("TLS is off"), "TLS is off");
        assert_eq!(lower_first("Permission denied"), "permission denied");
        assert_eq!(lower_first(""), "");
    }
}
