//! Groups: which rule trains which parameter of an optimiser.

use std::sync::Arc;

use super::Optimizer;
use super::group::Group;
use super::rules::Rule;
use crate::params::Param;
use crate::{Error, Result};

impl Optimizer {
    /// A group: the trainable parameters that `select` picks, as far as no earlier
    /// group has them, get a rule of their own, and with it a learning rate, a weight
    /// decay, moments. The schedule multiplies all learning rates, clipping looks at all
    /// gradients together. Its inputs are `{optimizer}.{name}.lr` and so on.
    ///
    /// Declare groups before the set is first compiled or laid out: then each has
    /// arenas of its own, and a step is a handful of dispatches for each group. Later
    /// ones work, too, but read and write whole arenas through a mask.
    ///
    /// ```
    /// use flowgrad::{Init, Params, optim::{AdamW, Optimizer}};
    /// # fn main() -> flowgrad::Result<()> {
    /// let params = Params::new(1);
    /// params.add("fc.weight", [10, 4], Init::Ones)?;
    /// params.add("fc.bias", [10], Init::Zeros)?;
    /// let plain = AdamW { weight_decay: 0.0, ..AdamW::default() };
    /// let optimizer = Optimizer::new(&params, AdamW::default())?
    ///     .group("plain", |p| p.shape().rank() < 2, plain)?
    ///     .freeze(|p| p.name().starts_with("encoder."));
    /// assert_eq!(optimizer.inputs(0)[3].0, "optim.plain.lr");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Errors: hyper-parameters that make no sense, a name that is empty or taken. A
    /// group without any parameter, or none that the loss depends on, is an error of
    /// the step.
    pub fn group(
        mut self,
        name: &str,
        select: impl Fn(&Param) -> bool + Send + Sync + 'static,
        rule: impl Rule + 'static,
    ) -> Result<Self> {
        rule.check()?;
        if name.is_empty() || self.groups.iter().any(|g| g.name == name) {
            return Err(Error::argument(
                "group",
                format!("the name `{name}` is empty or belongs to another group"),
            ));
        }
        self.groups.push(Group {
            name: name.into(),
            select: Arc::new(select),
            rule: Some(Arc::new(rule)),
        });
        self.separate();
        Ok(self)
    }

    /// The trainable parameters that `select` picks, as far as no earlier group has
    /// them, stay as they are; their gradients are not computed.
    pub fn freeze(mut self, select: impl Fn(&Param) -> bool + Send + Sync + 'static) -> Self {
        self.groups.push(Group {
            name: String::new(),
            select: Arc::new(select),
            rule: None,
        });
        self.separate();
        self
    }

    /// Whether a parameter is among those that this optimiser trains.
    pub fn trains(&self, param: &Param) -> bool {
        let mine = param.set_of().id() == self.params.id()
            && (self.params.trainable().iter()).any(|p| p.index() == param.index());
        mine && self.rule_of(self.group_of(param)).is_some()
    }

    /// The group of a parameter: 0 is the rest.
    pub(super) fn group_of(&self, param: &Param) -> usize {
        let found = self.groups.iter().position(|g| (g.select)(param));
        found.map_or(0, |at| at + 1)
    }

    /// The rule of a group; none for frozen ones.
    pub(super) fn rule_of(&self, group: usize) -> Option<&Arc<dyn Rule>> {
        match group.checked_sub(1) {
            None => Some(&self.rule),
            Some(at) => self.groups.get(at).and_then(|g| g.rule.as_ref()),
        }
    }

    /// The prefix of a group's inputs.
    pub(super) fn prefix_of(&self, group: usize) -> String {
        match group.checked_sub(1).and_then(|at| self.groups.get(at)) {
            Some(group) => format!("{}.{}", self.name, group.name),
            None => self.name.clone(),
        }
    }

    /// The groups that are trained. The rest is one where it has parameters.
    pub(super) fn trained_groups(&self) -> Vec<usize> {
        let rest = self.groups.is_empty()
            || (self.params.trainable().iter()).any(|p| self.group_of(p) == 0);
        let first = usize::from(!rest);
        let all = first..=self.groups.len();
        all.filter(|g| self.rule_of(*g).is_some()).collect()
    }

    /// Gives each group arenas of its own, as far as its parameters have no place yet.
    pub(super) fn separate(&self) {
        let all = self.params.trainable();
        for group in 0..=self.groups.len() {
            let members = all.iter().filter(|p| self.group_of(p) == group);
            let members: Vec<usize> = members.map(Param::index).collect();
            self.params.separate(&members);
        }
    }

    /// Every trained group has a gradient, or an error that says which has none.
    pub(super) fn check_groups(&self, found: &[usize]) -> Result<()> {
        match (self.trained_groups().into_iter()).find(|g| !found.contains(g)) {
            Some(group) => Err(Error::Graph(format!(
                "optimizer: the loss depends on no trainable parameter of `{}`; freeze what is not to be trained",
                self.prefix_of(group)
            ))),
            None => Ok(()),
        }
    }
}
