//! Which arguments are ours and which are the agent's.
//!
//! The rule: our options are long only and end at the first argument that is not one of them, or at
//! `--`; the rest goes to the agent as it is. `--help` is ours only directly after the command, so
//! that an agent's own `--help` is reached by any option before it or by `--`.

use std::ffi::{OsStr, OsString};

/// Whether an option of ours takes a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arity {
    /// It stands alone.
    Flag,
    /// It takes a value: after `=`, or the next argument whatever it is.
    Value,
}

/// One of our options: its name without the dashes.
pub(crate) type KnownOption = (String, Arity);

/// The arguments, divided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Divided {
    /// Ours, in order.
    pub(crate) ours: Vec<OsString>,
    /// The agent's, as they are.
    pub(crate) theirs: Vec<OsString>,
    /// How they are divided.
    pub(crate) boundary: Boundary,
}

/// What ended our options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Boundary {
    /// `--`, or nothing: there is no doubt.
    Explicit,
    /// An argument that is not ours.
    Foreign,
}

/// Divides what follows the command.
pub(crate) fn divide(arguments: &[OsString], known: &[KnownOption]) -> Divided {
    if arguments.first().is_some_and(|first| first == "--help") {
        let ours = vec![OsString::from("--help")];
        return Divided {
            ours,
            theirs: Vec::new(),
            boundary: Boundary::Explicit,
        };
    }
    let mut rest = arguments.iter();
    let mut ours = Vec::new();
    let mut boundary = Boundary::Explicit;
    while let Some(argument) = rest.as_slice().first() {
        if argument == "--" {
            rest.next();
            break;
        }
        let Some(takes_next) = ours_takes_next(argument, known) else {
            boundary = Boundary::Foreign;
            break;
        };
        ours.extend(rest.next().cloned());
        if takes_next {
            ours.extend(rest.next().cloned());
        }
    }
    Divided {
        ours,
        theirs: rest.cloned().collect(),
        boundary,
    }
}

/// For one of our options, whether the next argument is its value; `None` for any other argument.
fn ours_takes_next(argument: &OsStr, known: &[KnownOption]) -> Option<bool> {
    let text = argument.to_str()?.strip_prefix("--")?;
    let (name, attached) = match text.split_once('=') {
        Some((name, _)) => (name, true),
        None => (text, false),
    };
    let (_, arity) = known.iter().find(|(option, _)| option == name)?;
    Some(!attached && *arity == Arity::Value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Vec<KnownOption> {
        [
            ("memory", Arity::Value),
            ("env", Arity::Value),
            ("readonly", Arity::Flag),
        ]
        .map(|(name, arity)| (name.to_owned(), arity))
        .to_vec()
    }

    fn divided(arguments: &[&str]) -> (Vec<String>, Vec<String>) {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let Divided { ours, theirs, .. } = divide(&arguments, &known());
        let text =
            |list: Vec<OsString>| list.into_iter().map(|s| s.into_string().unwrap()).collect();
        (text(ours), text(theirs))
    }

    #[test]
    fn our_options_end_at_the_first_argument_that_is_not_one_of_them() {
        type Row = (
            &'static [&'static str],
            &'static [&'static str],
            &'static [&'static str],
        );
        let table: &[Row] = &[
            (&[], &[], &[]),
            (&["-p", "say hi"], &[], &["-p", "say hi"]),
            (
                &["--memory", "4GiB", "-p", "x"],
                &["--memory", "4GiB"],
                &["-p", "x"],
            ),
            (&["--memory=4GiB", "-p"], &["--memory=4GiB"], &["-p"]),
            (
                &["-p", "--memory", "4GiB"],
                &[],
                &["-p", "--memory", "4GiB"],
            ),
            (
                &["--readonly", "x", "--readonly"],
                &["--readonly"],
                &["x", "--readonly"],
            ),
            (&["--", "--memory", "4GiB"], &[], &["--memory", "4GiB"]),
            (
                &["--readonly", "--", "--", "x"],
                &["--readonly"],
                &["--", "x"],
            ),
            (&["--env", "--", "x"], &["--env", "--"], &["x"]),
            (&["--env", "-p", "x"], &["--env", "-p"], &["x"]),
            (&["--memory"], &["--memory"], &[]),
            (&["--version"], &[], &["--version"]),
            (
                &["--readonly", "--version"],
                &["--readonly"],
                &["--version"],
            ),
            (&["--help"], &["--help"], &[]),
            (&["--help", "-p"], &["--help"], &[]),
            (&["--readonly", "--help"], &["--readonly"], &["--help"]),
            (&["--", "--help"], &[], &["--help"]),
            (&["-h"], &[], &["-h"]),
            (&["--mem", "4GiB"], &[], &["--mem", "4GiB"]),
            (&["--memoryx=1"], &[], &["--memoryx=1"]),
            (&["--readonly=yes", "x"], &["--readonly=yes"], &["x"]),
            (&["-", "x"], &[], &["-", "x"]),
            (&["", "x"], &[], &["", "x"]),
        ];
        for (arguments, ours, theirs) in table {
            let (got_ours, got_theirs) = divided(arguments);
            assert_eq!(
                (got_ours.as_slice(), got_theirs.as_slice()),
                (ours.map_owned().as_slice(), theirs.map_owned().as_slice()),
                "{arguments:?}"
            );
        }
    }

    trait MapOwned {
        fn map_owned(&self) -> Vec<String>;
    }

    impl MapOwned for &[&str] {
        fn map_owned(&self) -> Vec<String> {
            self.iter().map(|text| (*text).to_owned()).collect()
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_the_agents() {
        use std::os::unix::ffi::OsStrExt as _;
        let odd = OsStr::from_bytes(b"--memory=\xff").to_owned();
        let divided = divide(std::slice::from_ref(&odd), &known());
        assert_eq!(divided.theirs, [odd]);
    }

    #[test]
    fn boundary_tells_a_foreign_argument_from_a_separator() {
        let of = |text: &[&str]| {
            divide(
                &text.iter().map(OsString::from).collect::<Vec<_>>(),
                &known(),
            )
            .boundary
        };
        assert_eq!(of(&["--", "x"]), Boundary::Explicit);
        assert_eq!(of(&["x"]), Boundary::Foreign);
        assert_eq!(of(&["--readonly"]), Boundary::Explicit);
    }
}
