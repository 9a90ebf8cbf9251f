//! What is reached without a proxy: `NO_PROXY`, with the semantics it has in curl.

use std::fmt;
use std::sync::Arc;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;

/// Hosts, domains, addresses and networks that are reached directly, separated by commas or blanks; `*` is all. Read once;
/// cheap to clone.
#[derive(Clone, Default)]
pub struct NoProxy {
    text: String,
    rule: Rule,
}

#[derive(Clone, Default)]
enum Rule {
    #[default]
    Nothing,
    Everything,
    /// What the matcher would not send to a proxy.
    Listed(Arc<Matcher>),
}

impl NoProxy {
    /// The list as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it has this host: a name, or an address, of IPv6 in brackets.
    pub(crate) fn excepts(&self, host: &str) -> bool {
        let matcher = match &self.rule {
            Rule::Nothing => return false,
            Rule::Everything => return true,
            Rule::Listed(matcher) => matcher,
        };
        let asked: Result<Uri, _> = format!("https://{host}/").parse();
        // A host that is no part of a URI can be no entry either.
        asked.is_ok_and(|uri| matcher.intercept(&uri).is_none())
    }
}

impl From<String> for NoProxy {
    fn from(text: String) -> Self {
        let entries = text
            .split([',', ' ', '\t', '\n'])
            .map(|entry| entry.trim_end_matches('.'))
            .filter(|entry| !entry.is_empty());
        let entries: Vec<&str> = entries.collect();
        let rule = if entries.is_empty() {
            Rule::Nothing
        } else if entries.contains(&"*") {
            Rule::Everything
        } else {
            let matcher = Matcher::builder()
                .all("http://proxy.invalid")
                .no(entries.join(","));
            Rule::Listed(Arc::new(matcher.build()))
        };
        Self { text, rule }
    }
}

impl From<&str> for NoProxy {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl fmt::Debug for NoProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NoProxy").field(&self.text).finish()
    }
}
