//! Kernels that come in several variants. A variant is a value: one file says its name,
//! when it can, when it pays and how it is dispatched; a family lists them by device.

use crate::Result;
use crate::device::{DeviceClass, DeviceProfile};
use crate::graph::Lower;

/// One way to compute a problem `P` on some devices.
pub(in crate::ops) trait Variant<P>: Sync {
    /// What plans, tuning files and tests call it.
    fn name(&self) -> &'static str;

    /// Whether it gives right results there: limits, lanes of a subgroup, layouts.
    fn possible(&self, problem: &P, device: &DeviceProfile) -> bool;

    /// Whether it is worth taking before those that stand after it in the list.
    fn pays(&self, problem: &P, device: &DeviceProfile) -> bool {
        let _ = (problem, device);
        true
    }

    /// Emits the dispatches. Only called where it is possible.
    fn lower(&self, problem: &P, cx: &mut Lower<'_>) -> Result<()>;
}

/// Variants by preference.
pub(in crate::ops) type List<P> = &'static [&'static dyn Variant<P>];

/// All variants of a kernel: which a device of each class tries, in order.
pub(in crate::ops) struct Family<P: 'static> {
    /// What [`Choices`](crate::device::Choices) call the kernel.
    pub kernel: &'static str,
    /// Software adapters spend their time on loads and switch threads at barriers, so
    /// what shares loads by shuffles comes first there, and workgroup memory last. This
    /// list holds every variant: tests and tuning walk it.
    pub software: List<P>,
    /// GPUs want workgroup memory wherever a problem fills its tiles.
    pub integrated: List<P>,
    pub discrete: List<P>,
    /// Always possible.
    pub otherwise: &'static dyn Variant<P>,
}

impl<P> Family<P> {
    fn of(&self, class: DeviceClass) -> List<P> {
        match class {
            DeviceClass::Software => self.software,
            DeviceClass::Integrated => self.integrated,
            DeviceClass::Discrete => self.discrete,
        }
    }

    /// The names of all variants, whatever the device.
    pub fn names(&self) -> Vec<&'static str> {
        self.software.iter().map(|v| v.name()).collect()
    }

    /// The variant for a problem of a shape class: the measured one where it is possible,
    /// else the first of the device's list that is possible and pays.
    pub fn choose(
        &self,
        problem: &P,
        shape: &str,
        device: &DeviceProfile,
    ) -> &'static dyn Variant<P> {
        let possible = |v: &&&'static dyn Variant<P>| v.possible(problem, device);
        let named = |name: &str| self.software.iter().find(|v| v.name() == name);
        let measured = device.choices.get(self.kernel, shape).and_then(named);
        let listed = || {
            let mut list = self.of(device.class).iter().filter(possible);
            list.find(|v| v.pays(problem, device))
        };
        match measured.filter(possible).or_else(listed) {
            Some(variant) => *variant,
            None => self.otherwise,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A variant of problems that are names: possible unless it is the problem.
    struct Named(&'static str, bool);

    impl Variant<&'static str> for Named {
        fn name(&self) -> &'static str {
            self.0
        }
        fn possible(&self, problem: &&'static str, _: &DeviceProfile) -> bool {
            *problem != self.0
        }
        fn pays(&self, _: &&'static str, _: &DeviceProfile) -> bool {
            self.1
        }
        fn lower(&self, _: &&'static str, _: &mut Lower<'_>) -> Result<()> {
            Ok(())
        }
    }

    static FAMILY: Family<&'static str> = Family {
        kernel: "k",
        software: &[
            &Named("row", false),
            &Named("large", true),
            &Named("small", true),
            &Named("plain", true),
        ],
        integrated: &[&Named("small", true), &Named("plain", true)],
        discrete: &[&Named("row", false), &Named("large", true)],
        otherwise: &Named("plain", true),
    };

    #[test]
    fn the_list_decides_unless_a_choice_was_measured() {
        let profile = |class| DeviceProfile {
            class,
            ..DeviceProfile::baseline()
        };
        let choose = |p: &DeviceProfile, not| FAMILY.choose(&not, "large", p).name();
        let mut discrete = profile(DeviceClass::Discrete);
        assert_eq!(choose(&discrete, ""), "large");
        assert_eq!(choose(&discrete, "large"), "plain");
        assert_eq!(choose(&profile(DeviceClass::Integrated), ""), "small");
        // What pays for nothing is taken where it was measured.
        discrete.choices.set("k", "large", "row");
        assert_eq!(choose(&discrete, ""), "row");
        // A choice for another shape, or one that cannot be followed, changes nothing.
        let mut other = profile(DeviceClass::Discrete);
        other.choices.set("k", "thin", "row");
        other.choices.set("another", "large", "row");
        assert_eq!(choose(&other, ""), "large");
        other.choices.set("k", "large", "small");
        assert_eq!(choose(&other, "small"), "large");
        other.choices.set("k", "large", "no such variant");
        assert_eq!(choose(&other, ""), "large");
    }
}
