//! Rules about hosts and requests, `[[egress.rule]]` of the user's `config.toml` and of the project's `.agent-vm.toml`:
//!
//! ```toml
//! [[egress.rule]]
//! host = "api.example.org"     # NAME or *.NAME
//! port = 443                   # every port unless named
//! method = ["GET", "HEAD"]     # every method unless named
//! path = "/repos/*/issues/**"  # every path unless named
//! action = "allow"             # allow, deny or ask
//! reason = "reads issues"      # for people
//! ```
//!
//! The language is described in docs/egress.md. The guest can write the project's file, so its rules only deny.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use agent_vm_policy::{Action, HostPattern, HostRule, Method, RuleName};
use serde::Deserialize;
use thiserror::Error;
use toml::{Table, Value};

use crate::setup_files::{Links, PROJECT_CONFIG, SetupFileError, USER_CONFIG, read_toml};

/// Most rules of one file: each connection and request is compared with all of them.
const MAX_RULES: usize = 1024;
/// Longest reason, in characters.
const MAX_REASON: usize = 200;
/// Every key of a rule.
const KEYS: [&str; 6] = ["host", "port", "method", "path", "action", "reason"];

/// Why rules cannot be used.
#[derive(Debug, Error)]
pub(crate) enum EgressRulesError {
    #[error(transparent)]
    File(#[from] SetupFileError),
    #[error("{}: [egress] cannot be understood", path.display())]
    Syntax {
        path: PathBuf,
        #[source]
        source: toml::de::Error,
    },
    #[error("{}: rule {number} of [[egress.rule]]: {problem}", path.display())]
    Rule {
        path: PathBuf,
        number: usize,
        problem: String,
    },
    #[error(
        "{}: rule {number} of [[egress.rule]]: `action = \"{action}\"` would widen what may be reached, \
         which a project's file cannot: its rules are `deny`",
        path.display()
    )]
    ProjectWidens {
        path: PathBuf,
        number: usize,
        action: Action,
    },
    #[error("{}: at most {MAX_RULES} rules can be given", path.display())]
    TooMany { path: PathBuf },
}

/// The part of a file that is read here; the rest is for others.
#[derive(Default, Deserialize)]
pub(crate) struct RawRules {
    #[serde(default)]
    egress: RawEgress,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEgress {
    #[serde(default)]
    rule: Vec<Table>,
}

/// All rules: the project's, which only deny, then the user's.
///
/// # Errors
/// When a file cannot be used.
pub(crate) fn read(
    user_directory: &Path,
    project_root: &Path,
) -> Result<Vec<HostRule>, EgressRulesError> {
    let path = project_root.join(PROJECT_CONFIG);
    let mut rules = parse(&path, PROJECT_CONFIG, read_raw(&path, Links::Refused)?)?;
    if let Some(wide) = rules.iter().find(|rule| rule.action != Action::Deny) {
        return Err(EgressRulesError::ProjectWidens {
            path,
            number: wide.name.number,
            action: wide.action,
        });
    }
    let path = user_directory.join(USER_CONFIG);
    rules.extend(parse(
        &path,
        USER_CONFIG,
        read_raw(&path, Links::Followed)?,
    )?);
    Ok(rules)
}

fn read_raw(path: &Path, links: Links) -> Result<RawRules, EgressRulesError> {
    read_toml(path, links, |path, source| EgressRulesError::Syntax {
        path,
        source,
    })
}

/// The rules of a file; `file` is what they are named after.
///
/// # Errors
/// When one cannot be understood.
pub(crate) fn parse(
    path: &Path,
    file: &'static str,
    raw: RawRules,
) -> Result<Vec<HostRule>, EgressRulesError> {
    if raw.egress.rule.len() > MAX_RULES {
        let path = path.to_owned();
        return Err(EgressRulesError::TooMany { path });
    }
    let numbered = (1..).zip(raw.egress.rule);
    let rules = numbered.map(|(number, table)| {
        rule(&table, file, number).map_err(|problem| EgressRulesError::Rule {
            path: path.to_owned(),
            number,
            problem,
        })
    });
    rules.collect()
}

/// One rule, or the key that is wrong with what it accepts.
fn rule(table: &Table, file: &'static str, number: usize) -> Result<HostRule, String> {
    if let Some(unknown) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        let known = KEYS.join(", ");
        return Err(format!(
            "`{}` is no key; there are {known}",
            unknown.escape_debug()
        ));
    }
    let host: HostPattern = required(table, "host", "NAME or *.NAME")?;
    let action: Action = required(table, "action", "\"allow\", \"deny\" or \"ask\"")?;
    Ok(HostRule {
        name: RuleName {
            file,
            number,
            reason: reason(table)?,
        },
        host,
        port: port(table)?,
        methods: methods(table)?,
        path: parsed(table, "path")?,
        action,
    })
}

fn text<'a>(table: &'a Table, key: &str) -> Result<Option<&'a str>, String> {
    match table.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("`{key}` must be a text in quotes")),
    }
}

fn parsed<T>(table: &Table, key: &str) -> Result<Option<T>, String>
where
    T: FromStr<Err: std::fmt::Display>,
{
    let read = |text: &str| text.parse().map_err(|error| format!("`{key}`: {error}"));
    text(table, key)?.map(read).transpose()
}

fn required<T>(table: &Table, key: &str, form: &str) -> Result<T, String>
where
    T: FromStr<Err: std::fmt::Display>,
{
    parsed(table, key)?.ok_or_else(|| format!("`{key}` is missing; it is {form}"))
}

fn port(table: &Table) -> Result<Option<u16>, String> {
    let form = || "`port` must be a number from 1 to 65535".to_owned();
    match table.get("port") {
        None => Ok(None),
        Some(Value::Integer(number)) => {
            let port = u16::try_from(*number).ok().filter(|port| *port > 0);
            port.map(Some).ok_or_else(form)
        }
        Some(_) => Err(form()),
    }
}

fn methods(table: &Table) -> Result<Vec<Method>, String> {
    let form = || "`method` must be a list such as [\"GET\", \"HEAD\"]".to_owned();
    let listed = match table.get("method") {
        None => return Ok(Vec::new()),
        Some(Value::Array(listed)) if !listed.is_empty() => listed,
        Some(_) => return Err(form()),
    };
    let method = |value: &Value| {
        let text = value.as_str().ok_or_else(form)?;
        text.parse().map_err(|error| format!("`method`: {error}"))
    };
    listed.iter().map(method).collect()
}

fn reason(table: &Table) -> Result<Option<String>, String> {
    let reason = text(table, "reason")?;
    let plain =
        |text: &&str| text.chars().count() <= MAX_REASON && !text.contains(char::is_control);
    match reason {
        Some(text) if !plain(&text) => Err(format!(
            "`reason` must be one line of at most {MAX_REASON} characters"
        )),
        reason => Ok(reason.map(str::to_owned)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(user: &str, project: &str) -> Result<Vec<HostRule>, String> {
        let directory = tempfile::tempdir().unwrap();
        fs_err::write(directory.path().join(USER_CONFIG), user).unwrap();
        fs_err::write(directory.path().join(PROJECT_CONFIG), project).unwrap();
        let read = read(directory.path(), directory.path());
        read.map_err(|error| error.to_string())
    }

    fn with(rest: &str) -> String {
        format!("[[egress.rule]]\nhost = \"a.test\"\naction = \"deny\"\n[[egress.rule]]\n{rest}")
    }

    #[test]
    fn the_projects_rules_stand_before_the_users_and_keep_their_numbers() {
        let user = with(
            "host = \"b.test\"\nport = 443\nmethod = [\"GET\"]\npath = \"/x/**\"\naction = \"ask\"\nreason = \"why\"",
        );
        let all = rules(
            &user,
            "[[egress.rule]]\nhost = \"*.c.test\"\naction = \"deny\"",
        )
        .unwrap();
        let shown: Vec<String> = all
            .iter()
            .map(|rule| format!("{}: {rule}", rule.name))
            .collect();
        assert_eq!(
            shown,
            [
                "rule 1 of .agent-vm.toml: deny *.c.test",
                "rule 1 of config.toml: deny a.test",
                "rule 2 of config.toml: why: ask GET b.test:443/x/**",
            ]
        );
    }

    #[test]
    fn errors_name_the_rule_the_key_and_what_it_accepts() {
        for (rest, told) in [
            ("", "`host` is missing; it is NAME or *.NAME"),
            (
                "host = \"b.test\"",
                "`action` is missing; it is \"allow\", \"deny\" or \"ask\"",
            ),
            ("host = 5", "`host` must be a text in quotes"),
            ("host = \"*.org\"", "it covers a whole top-level domain"),
            (
                "host = \"b.test\"\naction = \"permit\"",
                "`action`: an action is `allow`, `deny` or `ask`",
            ),
            (
                "host = \"b.test\"\naction = \"deny\"\nport = 0",
                "`port` must be a number from 1 to 65535",
            ),
            (
                "host = \"b.test\"\naction = \"deny\"\nmethod = \"GET\"",
                "`method` must be a list such as [\"GET\", \"HEAD\"]",
            ),
            (
                "host = \"b.test\"\naction = \"deny\"\nmethod = [\"get\"]",
                "`method`: a method is in capital letters, such as GET, and not CONNECT",
            ),
            (
                "host = \"b.test\"\naction = \"deny\"\npath = \"x\"",
                "`path`: \"x\" is no pattern of paths: it must begin with `/`",
            ),
            (
                "host = \"b.test\"\naction = \"deny\"\nreason = \"a\\nb\"",
                "`reason` must be one line of at most 200 characters",
            ),
            (
                "host = \"b.test\"\naction = \"deny\"\nmethods = []",
                "`methods` is no key; there are host, port, method, path, action, reason",
            ),
        ] {
            let error = rules(&with(rest), "").unwrap_err();
            assert!(
                error.contains("config.toml: rule 2 of [[egress.rule]]: "),
                "{error}"
            );
            assert!(error.ends_with(told), "{error}");
        }
        let unknown = rules("[egress]\nrules = []", "").unwrap_err();
        assert!(
            unknown.ends_with("config.toml: [egress] cannot be understood"),
            "{unknown}"
        );
        let many = "[[egress.rule]]\nhost = \"a.test\"\naction = \"deny\"\n".repeat(MAX_RULES + 1);
        assert!(
            rules(&many, "")
                .unwrap_err()
                .ends_with("at most 1024 rules can be given")
        );
    }

    #[test]
    fn a_projects_rule_that_is_no_denial_is_refused() {
        for action in ["allow", "ask"] {
            let project = format!("[[egress.rule]]\nhost = \"a.test\"\naction = \"{action}\"");
            let error = rules("", &project).unwrap_err();
            assert!(
                error.contains("rule 1") && error.ends_with("its rules are `deny`"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_examples_of_the_document_are_rules() {
        let document = include_str!("../../../docs/egress.md");
        let blocks = document.split("```toml\n").skip(1);
        let examples: Vec<&str> = blocks
            .filter_map(|block| block.split("```").next())
            .collect();
        assert!(examples.len() >= 4);
        for example in examples {
            let raw: RawRules = toml::from_str(example).unwrap();
            let path = Path::new("docs/egress.md");
            parse(path, USER_CONFIG, raw).unwrap();
        }
    }
}
