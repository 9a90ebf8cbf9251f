//! OCI images pulled into a content-addressed EROFS store.
