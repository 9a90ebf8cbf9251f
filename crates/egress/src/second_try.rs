//! Secrets put into a judged request, and the request once more when the upstream does not take them.
//!
//! Theory of operation. A token can be replaced on the host while the guest goes on using its placeholder; some clients
//! never renew a login at a 401. So at a 401 the source of secrets is told. If it has another secret by then, and the
//! request's body was small and has passed whole, or was not asked for yet (`expect.rs`), the request is sent once more;
//! else the 401 goes to the guest, whose own repetition gets the new secret. There is no third time.

use std::cell::RefCell;
use std::rc::Rc;

use agent_vm_policy::DenyReason;
use agent_vm_secret::Secret;
use bytes::Bytes;
use http::header::HeaderMap;
use http::request::Parts;
use http::{Method, Request, Uri, Version};
use hyper::body::{Frame, Incoming, SizeHint};

use crate::body::RequestBody;
use crate::egress::Shared;
use crate::refusal::Refusal;
use crate::request_head::Attachment;
use crate::splice::Traffic;

/// The largest body that is kept for a repetition, in bytes.
pub(crate) const MAX_KEPT_BODY_BYTES: usize = 1024 * 1024;

/// Asks for the secrets and puts them in their places; gives them back.
pub(crate) async fn attach(
    shared: &Shared,
    attachments: &[Attachment],
    head: &mut Parts,
) -> Result<Vec<Secret>, Refusal> {
    let mut used = Vec::with_capacity(attachments.len());
    for attachment in attachments {
        let credential = shared.credentials.get(attachment.credential);
        let secret = shared.secrets.secret(&credential.name).await;
        let secret = secret.map_err(|error| Refusal {
            reason: DenyReason::CredentialUnavailable,
            detail: Some(error.to_string()),
        })?;
        let known = (attachment.credential, &credential.placeholder);
        shared.sent.note(known, &secret, &attachment.slot);
        let value = attachment.slot.render(&secret);
        let value = value.ok_or(DenyReason::CredentialUnavailable)?;
        head.headers.insert(attachment.header.clone(), value);
        used.push(secret);
    }
    Ok(used)
}

/// What is needed to send a request once more.
pub(crate) struct SecondTry {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    attachments: Vec<Attachment>,
    used: Vec<Secret>,
    body: Rc<KeptBody>,
}

impl SecondTry {
    /// Remembers the head as the guest meant it, and begins to keep the body.
    pub(crate) fn new(
        head: &Parts,
        body: &mut RequestBody,
        attachments: Vec<Attachment>,
        used: Vec<Secret>,
    ) -> Self {
        Self {
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            headers: head.headers.clone(),
            attachments,
            used,
            body: body.keep(),
        }
    }

    /// Tells that the secrets were rejected; the request with others, when there are others and it can be repeated.
    /// `unasked` is the body, when the guest was not asked for it.
    pub(crate) async fn again(
        self,
        shared: &Rc<Shared>,
        traffic: &Rc<Traffic>,
        unasked: &mut Option<Incoming>,
    ) -> Option<(Parts, RequestBody)> {
        let mut replaced = false;
        for (attachment, used) in self.attachments.iter().zip(&self.used) {
            let credential = shared.credentials.get(attachment.credential);
            replaced |= shared.secrets.rejected(&credential.name, used).await;
        }
        let whole = self.body.whole();
        if !replaced || (unasked.is_none() && whole.is_none()) {
            return None;
        }
        let (mut head, ()) = Request::new(()).into_parts();
        (head.method, head.uri, head.version) = (self.method, self.uri, self.version);
        head.headers = self.headers;
        attach(shared, &self.attachments, &mut head).await.ok()?;
        let traffic = Rc::clone(traffic);
        let body = match unasked.take() {
            Some(body) => RequestBody::held(body, traffic).guarded(shared),
            None => RequestBody::of_bytes(whole?, traffic),
        };
        Some((head, body))
    }
}

/// A copy of a request's body while it passes, as long as it is small and has no trailers.
pub(crate) struct KeptBody(RefCell<Kept>);

enum Kept {
    Passing(Vec<u8>),
    Whole(Bytes),
    No,
}

impl KeptBody {
    pub(crate) fn new(size: &SizeHint, ended: bool) -> Self {
        let kept = if ended {
            Kept::Whole(Bytes::new())
        } else if size.lower() > MAX_KEPT_BODY_BYTES as u64 {
            Kept::No
        } else {
            Kept::Passing(Vec::new())
        };
        Self(RefCell::new(kept))
    }

    /// A frame passed; `None` is the end, `ended` that nothing comes after it.
    pub(crate) fn passed<E>(&self, frame: Option<&Result<Frame<Bytes>, E>>, ended: bool) {
        let mut kept = self.0.borrow_mut();
        let Kept::Passing(bytes) = &mut *kept else {
            return;
        };
        let data = match frame {
            None => Some(&[][..]),
            Some(Ok(frame)) => frame.data_ref().map(|data| &data[..]),
            Some(Err(_)) => None,
        };
        let fits = |data: &&[u8]| bytes.len() + data.len() <= MAX_KEPT_BODY_BYTES;
        match data.filter(fits) {
            None => *kept = Kept::No,
            Some(data) => {
                bytes.extend_from_slice(data);
                if frame.is_none() || ended {
                    *kept = Kept::Whole(std::mem::take(bytes).into());
                }
            }
        }
    }

    /// All of it, when it has passed whole.
    fn whole(&self) -> Option<Bytes> {
        match &*self.0.borrow() {
            Kept::Whole(bytes) => Some(bytes.clone()),
            Kept::Passing(_) | Kept::No => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    type Passed = Result<Frame<Bytes>, ()>;

    fn data(length: usize) -> Passed {
        Ok(Frame::data(Bytes::from(vec![b'x'; length])))
    }

    fn unknown() -> KeptBody {
        KeptBody::new(&SizeHint::new(), false)
    }

    #[test]
    fn keeps_what_has_passed_whole() {
        let kept = unknown();
        kept.passed(Some(&data(3)), false);
        assert_eq!(kept.whole(), None, "more may come");
        kept.passed(Some(&data(2)), false);
        kept.passed::<()>(None, true);
        assert_eq!(kept.whole(), Some(Bytes::from_static(b"xxxxx")));
        let sized = unknown();
        sized.passed(Some(&data(1)), true);
        assert_eq!(sized.whole(), Some(Bytes::from_static(b"x")));
        assert_eq!(
            KeptBody::new(&SizeHint::with_exact(0), true).whole(),
            Some(Bytes::new())
        );
    }

    #[test]
    fn keeps_nothing_that_is_large_broken_or_has_trailers() {
        let announced = KeptBody::new(&SizeHint::with_exact(MAX_KEPT_BODY_BYTES as u64 + 1), false);
        announced.passed(Some(&data(1)), true);
        assert_eq!(announced.whole(), None);
        for last in [data(1), Err(()), Ok(Frame::trailers(HeaderMap::new()))] {
            let kept = unknown();
            kept.passed(Some(&data(MAX_KEPT_BODY_BYTES)), false);
            kept.passed(Some(&last), true);
            assert_eq!(kept.whole(), None);
        }
        let full = unknown();
        full.passed(Some(&data(MAX_KEPT_BODY_BYTES)), true);
        assert_eq!(
            full.whole().map(|bytes| bytes.len()),
            Some(MAX_KEPT_BODY_BYTES)
        );
    }
}
