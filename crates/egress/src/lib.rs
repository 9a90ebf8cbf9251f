//! One flow: name, verdict, interception, credential, audit.
