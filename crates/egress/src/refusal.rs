//! Why a request is not passed on, and how the guest is told.

use agent_vm_policy::DenyReason;
use http::Response;

use crate::body::ReplyBody;
use crate::record::RequestRecord;
use crate::respond::denial;
use crate::upstream::UpstreamError;

/// A refusal with a sentence for the person.
pub(crate) struct Refusal {
    pub(crate) reason: DenyReason,
    pub(crate) detail: Option<String>,
}

impl From<DenyReason> for Refusal {
    fn from(reason: DenyReason) -> Self {
        Self {
            reason,
            detail: None,
        }
    }
}

impl From<&UpstreamError> for Refusal {
    fn from(error: &UpstreamError) -> Self {
        Self {
            reason: error.reason(),
            detail: Some(error.to_string()),
        }
    }
}

/// Records and makes the answer to a request that is not passed on.
pub(crate) fn refuse(mut record: RequestRecord, refusal: &Refusal) -> Response<ReplyBody> {
    match refusal.reason {
        DenyReason::UpstreamCertificate
        | DenyReason::UpstreamFailed
        | DenyReason::ProxyRefused
        | DenyReason::CredentialUnavailable => record.failed(refusal.reason),
        reason => record.denied(reason),
    }
    let response = denial(refusal.reason, refusal.detail.as_deref(), record.form());
    record.answered(response.status());
    response
}
