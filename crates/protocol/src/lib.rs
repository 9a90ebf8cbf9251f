//! Control protocol between launcher and guest.
