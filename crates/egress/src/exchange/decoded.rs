//! A compressed answer from where tokens have to be looked for: read whole, and given to the guest without its coding.
//!
//! It was asked for without one, so this is rare, and such answers are short documents.

use std::time::Duration;

use agent_vm_policy::DenyReason;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::{Response, response};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;

use crate::body::ReplyBody;
use crate::content_coding::ContentCoding;
use crate::record::RequestRecord;
use crate::refusal::{Refusal, refuse};
use crate::scrub::{Patterns, Scrub};
use crate::upstream::Lease;

/// The largest such body, in bytes as it is sent.
const MAX_CODED_BYTES: usize = 256 * 1024;
/// The same without its coding.
const MAX_DECODED_BYTES: usize = 1024 * 1024;
/// How long the upstream may take to send it.
const PATIENCE: Duration = Duration::from_secs(25);

/// The answer without its coding and tokens, or a refusal: what cannot be read is not passed on.
pub(super) async fn decoded(
    mut head: response::Parts,
    (body, lease): (Incoming, Lease),
    record: RequestRecord,
    patterns: Patterns,
) -> Response<ReplyBody> {
    let plain = match read(&head, body, &record).await {
        Ok(plain) => plain,
        Err(problem) => {
            let refusal = Refusal {
                reason: DenyReason::UpstreamFailed,
                detail: Some(format!(
                    "It sent a compressed answer where tokens have to be looked for, and {problem}."
                )),
            };
            return refuse(record, &refusal);
        }
    };
    drop(lease);
    head.headers.remove(CONTENT_ENCODING);
    head.headers.remove(CONTENT_LENGTH);
    let mut scrub = Scrub::new(patterns);
    let mut clean = Vec::from(scrub.push(plain.into()));
    clean.extend_from_slice(&scrub.end());
    Response::from_parts(head, ReplyBody::Text(Some(Bytes::from(clean))))
}

/// The whole body, or what is wrong with it.
async fn read(
    head: &response::Parts,
    body: Incoming,
    record: &RequestRecord,
) -> Result<Vec<u8>, String> {
    let coding = ContentCoding::of(&head.headers).map_err(|error| error.to_string())?;
    let whole = Limited::new(body, MAX_CODED_BYTES).collect();
    let whole = match tokio::time::timeout(PATIENCE, whole).await {
        Ok(Ok(whole)) => whole.to_bytes(),
        Ok(Err(_)) | Err(_) => return Err("it is not whole".to_owned()),
    };
    record.traffic().down.set(whole.len() as u64);
    let plain = coding.decode(&whole, MAX_DECODED_BYTES);
    plain.map_err(|error| error.to_string())
}
