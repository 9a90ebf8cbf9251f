//! What name servers have said lately: answers for as long as their records live, failures for a second.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use hickory_proto::rr::Record;
use tokio::time::Instant;

use super::resolver::{Answer, DnsFailure, Question};

/// Answers of one VM. When it is full, what was stored longest ago goes first.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    entries: HashMap<Question, Entry>,
    by_age: BTreeMap<u64, Question>,
    serial: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    result: Result<Answer, DnsFailure>,
    stored: Instant,
    until: Instant,
    serial: u64,
    bytes: usize,
}

impl Cache {
    /// What is known, its times counted down to `now`.
    pub(crate) fn find(
        &mut self,
        question: &Question,
        now: Instant,
    ) -> Option<Result<Answer, DnsFailure>> {
        let entry = self.entries.get(question)?;
        if entry.until <= now {
            self.remove(question);
            return None;
        }
        let mut result = entry.result.clone();
        if let Ok(answer) = &mut result {
            answer.age(now - entry.stored);
        }
        Some(result)
    }

    /// Keeps a result as long as it may be kept.
    pub(crate) fn store(
        &mut self,
        question: &Question,
        result: &Result<Answer, DnsFailure>,
        now: Instant,
    ) {
        let lifetime = match result {
            Ok(answer) => answer.lifetime(question.kind),
            Err(_) => FAILURE_LIFETIME,
        };
        let bytes = size(question, result);
        self.remove(question);
        if lifetime.is_zero() || bytes > MAX_CACHED_ANSWER {
            return;
        }
        self.serial += 1;
        self.bytes += bytes;
        self.by_age.insert(self.serial, question.clone());
        let entry = Entry {
            result: result.clone(),
            stored: now,
            until: now + lifetime,
            serial: self.serial,
            bytes,
        };
        self.entries.insert(question.clone(), entry);
        while self.entries.len() > MAX_CACHED_ANSWERS || self.bytes > MAX_CACHE_BYTES {
            let Some((_, oldest)) = self.by_age.pop_first() else {
                break;
            };
            self.remove(&oldest);
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn remove(&mut self, question: &Question) {
        if let Some(entry) = self.entries.remove(question) {
            self.by_age.remove(&entry.serial);
            self.bytes -= entry.bytes;
        }
    }
}

/// About what an entry takes in memory, both copies of its question included.
fn size(question: &Question, result: &Result<Answer, DnsFailure>) -> usize {
    let own = size_of::<Entry>() + 2 * (size_of::<Question>() + question.name.len());
    let Ok(answer) = result else { return own };
    let records = answer
        .records
        .iter()
        .chain(answer.soa.as_deref())
        .map(record_size);
    own + records.sum::<usize>()
}

fn record_size(record: &Record) -> usize {
    use hickory_proto::serialize::binary::BinEncodable;
    size_of::<Record>()
        + 2 * record
            .to_bytes()
            .map_or(MAX_CACHED_ANSWER, |bytes| bytes.len())
}

/// Answers kept for one VM.
pub(crate) const MAX_CACHED_ANSWERS: usize = 4_096;

/// Memory of the answers kept for one VM, in bytes.
pub(crate) const MAX_CACHE_BYTES: usize = 4 * 1024 * 1024;

/// A larger answer is not kept, in bytes of memory.
const MAX_CACHED_ANSWER: usize = 128 * 1024;

/// How long a failure is repeated without asking (RFC 9520 §3.2).
const FAILURE_LIFETIME: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
