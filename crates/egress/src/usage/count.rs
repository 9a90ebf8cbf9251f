//! What was counted, in one form for all providers.

use serde::Serialize;
use serde_json::Value;

use crate::audit::bounded;

/// Tokens of one answer or of many. Those that a cache gave, or took, are not among `input_tokens`; those that a model
/// thought with are among `output_tokens`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TokenCount {
    /// Read by the model anew.
    pub input_tokens: u64,
    /// Read from the provider's cache.
    pub cache_read_tokens: u64,
    /// Read and written into the provider's cache.
    pub cache_write_tokens: u64,
    /// Written by the model, thoughts included.
    pub output_tokens: u64,
}

/// What one answer said so far. Providers repeat their numbers while an answer grows, so the last word counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) model: Option<String>,
    /// Anthropic's numbers exclude the cache's.
    anthropic: Numbers,
    /// OpenAI's and Gemini's include them.
    inclusive: Numbers,
}

#[derive(Debug, Default)]
struct Numbers {
    input: Option<u64>,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    output: Option<u64>,
    thoughts: Option<u64>,
}

impl Numbers {
    fn is_empty(&self) -> bool {
        self.input.is_none() && self.output.is_none()
    }
}

impl Tally {
    /// Of an answer whose model may be known before.
    pub(super) fn of(model: Option<String>) -> Self {
        Self {
            model,
            ..Self::default()
        }
    }

    /// The model's name; the first one is the answer's.
    pub(super) fn model(&mut self, name: &str) {
        if self.model.is_none() {
            self.model = Some(bounded(name));
        }
    }

    /// An object `usage` or `usageMetadata`.
    pub(super) fn usage(&mut self, text: &[u8]) {
        let Ok(usage) = serde_json::from_slice::<Value>(text) else {
            return;
        };
        let number = |path: &[&str]| {
            let found = path.iter().try_fold(&usage, |value, name| value.get(name));
            found.and_then(Value::as_u64)
        };
        let first = |paths: &[&[&str]]| paths.iter().find_map(|path| number(path));
        let set = |field: &mut Option<u64>, value: Option<u64>| *field = value.or(*field);
        let of_anthropic = usage.get("cache_read_input_tokens").is_some()
            || usage.get("cache_creation_input_tokens").is_some();
        let numbers = if of_anthropic || !self.anthropic.is_empty() {
            &mut self.anthropic
        } else {
            &mut self.inclusive
        };
        set(
            &mut numbers.input,
            first(&[&["input_tokens"], &["prompt_tokens"], &["promptTokenCount"]]),
        );
        set(
            &mut numbers.output,
            first(&[
                &["output_tokens"],
                &["completion_tokens"],
                &["candidatesTokenCount"],
            ]),
        );
        set(
            &mut numbers.cache_read,
            first(&[
                &["cache_read_input_tokens"],
                &["input_tokens_details", "cached_tokens"],
                &["prompt_tokens_details", "cached_tokens"],
                &["cachedContentTokenCount"],
            ]),
        );
        set(
            &mut numbers.cache_write,
            number(&["cache_creation_input_tokens"]),
        );
        set(&mut numbers.thoughts, number(&["thoughtsTokenCount"]));
    }

    /// Whether nothing was counted.
    pub(super) fn is_empty(&self) -> bool {
        self.anthropic.is_empty() && self.inclusive.is_empty()
    }

    /// Forgets the numbers, as the next answer begins.
    pub(super) fn clear_tokens(&mut self) {
        *self = Self::default();
    }

    pub(super) fn tokens(&self) -> TokenCount {
        let (own, inclusive) = (&self.anthropic, &self.inclusive);
        let number = |field: Option<u64>| field.unwrap_or(0);
        let cached = number(inclusive.cache_read);
        let of_inclusive = TokenCount {
            input_tokens: number(inclusive.input).saturating_sub(cached),
            cache_read_tokens: cached,
            cache_write_tokens: number(inclusive.cache_write),
            output_tokens: number(inclusive.output).saturating_add(number(inclusive.thoughts)),
        };
        if own.is_empty() {
            return of_inclusive;
        }
        TokenCount {
            input_tokens: number(own.input),
            cache_read_tokens: number(own.cache_read),
            cache_write_tokens: number(own.cache_write),
            output_tokens: number(own.output),
        }
    }
}
