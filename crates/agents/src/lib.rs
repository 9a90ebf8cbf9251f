//! Agent profiles: data.
