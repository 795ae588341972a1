//! The shapes of residual networks, and the published ones by name.

use crate::{Error, Result};

/// How a residual network begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResNetStem {
    /// 7x7 with stride 2 and a 3x3 maximum pool with stride 2, for ImageNet.
    ImageNet,
    /// 3x3 with stride 1, for images of 32x32.
    Cifar,
}

/// What a residual network is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResNetBlock {
    /// Two 3x3 convolutions, each with a batch norm behind it. He et al. 2016, arXiv
    /// 1512.03385.
    Basic,
    /// 1x1, 3x3 (which has the stride, as in torchvision) and 1x1 to four times the width,
    /// each with a batch norm behind it.
    Bottleneck,
    /// Batch norm and ReLU before each of two 3x3 convolutions; a projection reads what the
    /// first ReLU gives. No batch norm behind the stem or the last block. He et al. 2016,
    /// arXiv 1603.05027, as in kuangliu/pytorch-cifar.
    PreActivation,
}

/// What goes past a block where extents or channels change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResNetShortcut {
    /// A 1x1 convolution (with a batch norm, but in pre-activation blocks).
    Projection,
    /// Every other pixel, and zeros for the new channels, half before and half behind the
    /// old ones: option A of the paper, without parameters. As in akamaster/pytorch_resnet_cifar10.
    Padded,
}

/// What shortcuts and the last layer are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResNetNames {
    /// `downsample` and `fc`.
    Torchvision,
    /// `shortcut` and `fc`.
    OpenOod,
    /// `shortcut` and `linear`.
    Kuangliu,
}

impl ResNetNames {
    pub(super) fn shortcut(self) -> &'static str {
        match self {
            ResNetNames::Torchvision => "downsample",
            _ => "shortcut",
        }
    }

    pub(super) fn head(self) -> &'static str {
        match self {
            ResNetNames::Kuangliu => "linear",
            _ => "fc",
        }
    }
}

/// The shape of a residual network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResNetConfig {
    /// How it begins.
    pub stem: ResNetStem,
    /// What it is made of.
    pub block: ResNetBlock,
    /// What goes past blocks that change shapes.
    pub shortcut: ResNetShortcut,
    /// What its parts are called.
    pub names: ResNetNames,
    /// Channels of the images.
    pub channels: usize,
    /// Channels of the first stage (a quarter of them with bottlenecks); each further one
    /// has twice as many.
    pub width: usize,
    /// Blocks of the stages. Every stage but the first halves the extents.
    pub blocks: Vec<usize>,
    /// Whether there is a ReLU behind the last block; pre-activation blocks have none. Without
    /// it features may be negative, and gradients pass (feature visualisation).
    pub last_relu: bool,
    /// Outputs of the last layer.
    pub classes: usize,
}

impl ResNetConfig {
    /// ResNet-18 as torchvision has it: 1,000 classes, 11,689,512 parameters.
    pub fn resnet18() -> Self {
        ResNetConfig {
            stem: ResNetStem::ImageNet,
            block: ResNetBlock::Basic,
            shortcut: ResNetShortcut::Projection,
            names: ResNetNames::Torchvision,
            channels: 3,
            width: 64,
            blocks: vec![2; 4],
            last_relu: true,
            classes: 1000,
        }
    }

    /// ResNet-34 as torchvision has it: 21,797,672 parameters.
    pub fn resnet34() -> Self {
        ResNetConfig {
            blocks: vec![3, 4, 6, 3],
            ..ResNetConfig::resnet18()
        }
    }

    /// ResNet-50 as torchvision has it: 25,557,032 parameters.
    pub fn resnet50() -> Self {
        ResNetConfig {
            block: ResNetBlock::Bottleneck,
            ..ResNetConfig::resnet34()
        }
    }

    /// ResNet-18 for CIFAR-10 (3x3 stem, no pool) under torchvision's names: 11,173,962
    /// parameters.
    pub fn resnet18_cifar() -> Self {
        ResNetConfig {
            stem: ResNetStem::Cifar,
            classes: 10,
            ..ResNetConfig::resnet18()
        }
    }

    /// The same under the names of kuangliu/pytorch-cifar.
    pub fn resnet18_kuangliu() -> Self {
        ResNetConfig {
            names: ResNetNames::Kuangliu,
            ..ResNetConfig::resnet18_cifar()
        }
    }

    /// The same under the names of OpenOOD.
    pub fn resnet18_openood() -> Self {
        ResNetConfig {
            names: ResNetNames::OpenOod,
            ..ResNetConfig::resnet18_cifar()
        }
    }

    /// ResNet-18 of pre-activation blocks for CIFAR-10, under kuangliu's names: 11,171,146
    /// parameters.
    pub fn preact18() -> Self {
        ResNetConfig {
            block: ResNetBlock::PreActivation,
            ..ResNetConfig::resnet18_kuangliu()
        }
    }

    /// The discriminator of DenseFlow's adversarial training: kuangliu's ResNet-18 with one
    /// output, the logit of being real; 11,169,345 parameters.
    pub fn resnet18_discriminator() -> Self {
        ResNetConfig {
            classes: 1,
            ..ResNetConfig::resnet18_kuangliu()
        }
    }

    /// The CIFAR-10 networks of the paper, of 20, 32, 44, 56 or 110 layers (any 6 n + 2):
    /// three stages of 16, 32 and 64 channels, shortcuts of option A. 269,722, 464,154,
    /// 658,586, 853,018 and 1,727,962 parameters. Error: another number of layers.
    pub fn cifar(depth: usize) -> Result<Self> {
        let blocks = depth.saturating_sub(2) / 6;
        if blocks == 0 || 6 * blocks + 2 != depth {
            let detail = format!("{depth} layers given, 6 n + 2 are possible: 20, 32, 44, 56, 110");
            return Err(Error::argument("ResNetConfig::cifar", detail));
        }
        Ok(ResNetConfig {
            shortcut: ResNetShortcut::Padded,
            width: 16,
            blocks: vec![blocks; 3],
            ..ResNetConfig::resnet18_kuangliu()
        })
    }

    pub(super) fn check(&self) -> Result<()> {
        let wrong = |detail: String| Err(Error::argument("ResNet", detail));
        let counts = [self.channels, self.width, self.classes];
        let stages = self.blocks.len();
        if stages == 0 || counts.iter().chain(&self.blocks).any(|n| *n == 0) {
            return wrong(format!("every count of {self:?} must be at least 1"));
        }
        if stages > 16 || self.width > 1 << 20 {
            return wrong(format!(
                "{stages} stages from a width of {} are too many",
                self.width
            ));
        }
        if self.shortcut == ResNetShortcut::Padded && self.block != ResNetBlock::Basic {
            return wrong(format!(
                "padded shortcuts go past basic blocks, not {:?}",
                self.block
            ));
        }
        if self.shortcut == ResNetShortcut::Padded && self.width % 2 == 1 && stages > 1 {
            let detail = "padded shortcuts need an even width: as many zeros before as behind";
            return wrong(format!("{detail}, it is {}", self.width));
        }
        Ok(())
    }
}
