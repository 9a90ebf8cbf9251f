//! The file server behind the one virtio-fs device.
