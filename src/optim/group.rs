//! A group as plain data.

use std::sync::Arc;

use super::rules::Rule;
use crate::params::Param;

/// Whether a parameter belongs to a group.
pub(super) type Select = Arc<dyn Fn(&Param) -> bool + Send + Sync>;

/// Parameters with a rule of their own, or with none.
#[derive(Clone)]
pub(super) struct Group {
    pub name: String,
    pub select: Select,
    /// `None` where they are not trained.
    pub rule: Option<Arc<dyn Rule>>,
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Group({} {:?})", self.name, self.rule)
    }
}
