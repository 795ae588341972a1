//! Saving and loading the parameters of a set.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Seek};
use std::path::Path;

use super::file::{self, Precision, Record, WeightsFile, weights};
use super::{LoadRules, Param, Params};
use crate::Result;

/// Tensors of a checkpoint that accompany parameters (optimiser moments) begin with
/// this; parameter names have no slash. A checkpoint can be loaded as weights.
pub(crate) const COMPANION: &str = "arena/";

/// Whether names and shapes must match exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strict {
    /// Every parameter in the file, nothing else in it (but `num_batches_tracked`, which
    /// batch norms of PyTorch count), all shapes equal.
    Yes,
    /// Loads what fits and reports the rest.
    No,
}

/// What a load did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Loaded names.
    pub loaded: Vec<String>,
    /// In the set, not in the file; these keep their values.
    pub missing: Vec<String>,
    /// In the file, not in the set.
    pub unexpected: Vec<String>,
    /// In both, but of another shape or type, with the detail.
    pub mismatched: Vec<(String, String)>,
}

impl Params {
    /// Saves all parameters and states below this handle's prefix (names in the
    /// file are relative to it). The file is replaced atomically. Errors: values
    /// that are not finite or do not fit the precision; writing fails.
    pub fn save(&self, path: impl AsRef<Path>, precision: Precision) -> Result<()> {
        let metadata = HashMap::from([("format".into(), "flowgrad".into())]);
        file::write(path.as_ref(), self.records("")?, metadata, precision)
    }

    /// Loads parameters and states below this handle's prefix. Nothing changes
    /// unless the whole file is good. Errors: a file that is not safetensors,
    /// truncated or damaged; values that are not finite; with [`Strict::Yes`]
    /// anything missing, unexpected or of another shape.
    pub fn load(&self, path: impl AsRef<Path>, strict: Strict) -> Result<LoadReport> {
        let file = WeightsFile::open(&path)?;
        self.load_from(file, strict)
    }

    /// The same from a file that is open already, or that lies in memory.
    pub fn load_from<R: Read + Seek>(
        &self,
        file: WeightsFile<R>,
        strict: Strict,
    ) -> Result<LoadReport> {
        self.load_by(
            file,
            &match strict {
                Strict::Yes => LoadRules::default(),
                Strict::No => LoadRules::default().lenient(),
            },
        )
    }

    /// Loads parameters and states below this handle's prefix from a file that others
    /// wrote, by rules for its names and shapes. Nothing changes unless the whole file is
    /// good. Errors: as [`Params::load`]; two tensors that the rules give one name.
    pub fn load_by<R: Read + Seek>(
        &self,
        mut file: WeightsFile<R>,
        rules: &LoadRules,
    ) -> Result<LoadReport> {
        let (report, found) = self.match_file(&file, rules)?;
        if !rules.is_lenient() {
            report.demand_all(file.path())?;
        }
        let values = found
            .iter()
            .map(|(_, name)| file.read(name))
            .collect::<Result<Vec<_>>>()?;
        for ((param, _), values) in found.iter().zip(&values) {
            param.set(values)?;
        }
        Ok(report)
    }

    /// All values, named `prefix` + name below this handle.
    pub(crate) fn records(&self, prefix: &str) -> Result<Vec<Record>> {
        let skip = self.prefix.len();
        let record = |param: Param| {
            Ok(Record {
                name: format!("{prefix}{}", &param.name()[skip..]),
                shape: param.shape().dims().to_vec(),
                values: param.get()?,
            })
        };
        self.all().into_iter().map(record).collect()
    }

    /// Compares the set with a file: the report, and the parameters to load with their
    /// names in the file.
    pub(crate) fn match_file<R: Read + Seek>(
        &self,
        file: &WeightsFile<R>,
        rules: &LoadRules,
    ) -> Result<(LoadReport, Vec<(Param, String)>)> {
        let mut in_file: BTreeMap<String, String> = BTreeMap::new();
        for original in file.names() {
            let Some(name) = rules.name(&original) else {
                continue;
            };
            if let Some(other) = in_file.insert(name.clone(), original.clone()) {
                let detail = format!("`{other}` and it are both called `{name}` by the rules");
                return Err(weights(file.path(), &original, detail));
            }
        }
        let skip = self.prefix.len();
        let mut report = LoadReport::default();
        let mut found = Vec::new();
        for param in self.all() {
            let name = param.name()[skip..].to_string();
            let Some(original) = in_file.remove(&name) else {
                if !rules.keeps(&name) {
                    report.missing.push(name);
                }
                continue;
            };
            let shape = file.shape(&original).unwrap_or(&[]);
            if !rules.fits(shape, &param) {
                let detail = format!("{shape:?} in the file, {:?} here", param.shape());
                report.mismatched.push((name, detail));
            } else if !file.is_float(&original) {
                let detail = "its elements are not floats".to_string();
                report.mismatched.push((name, detail));
            } else {
                report.loaded.push(name);
                found.push((param, original));
            }
        }
        let left = in_file.into_keys();
        let counts = |name: &String| !name.starts_with(COMPANION) && !rules.passes_over(name);
        report.unexpected = left.filter(counts).collect();
        Ok((report, found))
    }
}

impl LoadReport {
    /// An error unless everything was there and fitted.
    pub(crate) fn demand_all(&self, path: &Path) -> Result<()> {
        let (tensor, what) = if let Some((name, detail)) = self.mismatched.first() {
            (name, detail.clone())
        } else if let Some(name) = self.missing.first() {
            (name, "it is not in the file".into())
        } else if let Some(name) = self.unexpected.first() {
            (name, "it is in the file, but no parameter".into())
        } else {
            return Ok(());
        };
        let counts = format!(
            "{what} ({} missing, {} unexpected, {} of another shape or type; `Strict::No` loads the rest)",
            self.missing.len(),
            self.unexpected.len(),
            self.mismatched.len()
        );
        Err(weights(path, tensor, counts))
    }
}
