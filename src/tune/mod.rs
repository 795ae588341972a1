//! Measuring an adapter: what it can do at most, and which of a kernel's variants
//! suits it. Nothing here runs unless it is called. It must not know models.

mod roof;
