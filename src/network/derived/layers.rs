//! Layers and tensors of a derived network, and the builder that keeps their sizes right.

/// A tensor of one image: `channels` maps of `size` (height, width).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Channels.
    pub channels: usize,
    /// Height and width.
    pub size: [usize; 2],
}

impl Tensor {
    /// Elements of one image.
    pub fn elements(&self) -> u64 {
        (self.channels * self.size[0] * self.size[1]) as u64
    }
}

/// Number of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(pub usize);

/// Which part of the network a layer is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What classifies.
    Body,
    /// The auxiliary head, which runs in training only.
    Auxiliary,
}

/// A sliding window; each pair is vertical, horizontal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Taps.
    pub kernel: [usize; 2],
    /// Step.
    pub stride: [usize; 2],
    /// Zeros on each side; in pooling, places that do not count.
    pub padding: [usize; 2],
    /// Distance of neighbouring taps.
    pub dilation: usize,
}

impl Window {
    /// A square window of `kernel`×`kernel` taps, padded so that stride 1 keeps the size.
    pub fn same(kernel: usize, stride: usize, dilation: usize) -> Window {
        Window {
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [dilation * (kernel - 1) / 2; 2],
            dilation,
        }
    }

    /// A square window without padding.
    pub fn valid(kernel: usize, stride: usize) -> Window {
        Window {
            padding: [0; 2],
            ..Window::same(kernel, stride, 1)
        }
    }

    /// Size of the result; none where the window does not fit into the padded map.
    pub fn over(&self, size: [usize; 2]) -> Option<[usize; 2]> {
        let along = |axis: usize| {
            let reach = self.dilation * (self.kernel[axis] - 1) + 1;
            let room = (size[axis] + 2 * self.padding[axis]).checked_sub(reach)?;
            Some(room / self.stride[axis] + 1)
        };
        Some([along(0)?, along(1)?])
    }
}

/// What a layer computes.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// max(x, 0)
    Relu,
    /// Convolution; weight `[Cout, Cin / groups, kh, kw]`.
    Convolution {
        /// Its window.
        window: Window,
        /// Groups; as many as channels where depthwise.
        groups: usize,
        /// Whether it adds a bias `[Cout]`.
        bias: bool,
    },
    /// Batch norm with γ, β and running statistics.
    BatchNorm,
    /// Maximum over a window.
    MaxPool(Window),
    /// Mean over the places of a window that lie in the map.
    AveragePool(Window),
    /// Everything but the first row and column: what the second half of a factorized reduction
    /// reads.
    Crop,
    /// Zeros of the size that `stride` leaves.
    Zero {
        /// Its stride.
        stride: usize,
    },
    /// Σ of the inputs. `drop_path` tells which of them drop-path may set to zero for an image:
    /// those that are not an identity.
    Sum {
        /// One an input.
        drop_path: Vec<bool>,
    },
    /// The inputs' channels side by side.
    Concatenate,
    /// Mean over all places.
    GlobalAverage,
    /// Linear map with bias; weight `[Cout, Cin]`.
    Linear,
}

/// A layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Path of its module in the official code; for what is no module there, the path of the module
    /// that computes it.
    pub name: String,
    /// What it computes.
    pub kind: Kind,
    /// What it reads.
    pub inputs: Vec<TensorId>,
    /// What it writes.
    pub output: TensorId,
    /// Its part of the network.
    pub part: Part,
    /// Channels of the first input and of the output.
    channels: [usize; 2],
}

/// Name and shape of a tensor of the `state_dict`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorShape {
    /// PyTorch's name.
    pub name: String,
    /// PyTorch's shape; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorShape {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&side| side as u64).product()
    }
}

impl Layer {
    fn tensor(&self, suffix: &str, shape: Vec<usize>) -> TensorShape {
        TensorShape {
            name: format!("{}.{suffix}", self.name),
            shape,
        }
    }

    /// Its trainable tensors.
    pub fn parameters(&self) -> Vec<TensorShape> {
        let [cin, cout] = self.channels;
        match &self.kind {
            Kind::Convolution {
                window,
                groups,
                bias,
            } => {
                let [kh, kw] = window.kernel;
                let mut tensors = vec![self.tensor("weight", vec![cout, cin / groups, kh, kw])];
                tensors.extend(bias.then(|| self.tensor("bias", vec![cout])));
                tensors
            }
            Kind::BatchNorm => ["weight", "bias"]
                .map(|suffix| self.tensor(suffix, vec![cout]))
                .into(),
            Kind::Linear => vec![
                self.tensor("weight", vec![cout, cin]),
                self.tensor("bias", vec![cout]),
            ],
            _ => Vec::new(),
        }
    }

    /// What else its `state_dict` holds: the running statistics of a batch norm.
    pub fn buffers(&self) -> Vec<TensorShape> {
        match self.kind {
            Kind::BatchNorm => vec![
                self.tensor("running_mean", vec![self.channels[1]]),
                self.tensor("running_var", vec![self.channels[1]]),
                self.tensor("num_batches_tracked", Vec::new()),
            ],
            _ => Vec::new(),
        }
    }

    /// Multiply-accumulates of one image; only convolutions and linear layers have any.
    pub fn macs(&self, tensors: &[Tensor]) -> u64 {
        let [cin, cout] = self.channels.map(|channels| channels as u64);
        match &self.kind {
            Kind::Convolution { window, groups, .. } => {
                let taps = (window.kernel[0] * window.kernel[1]) as u64;
                tensors[self.output.0].elements() * taps * (cin / *groups as u64)
            }
            Kind::Linear => cin * cout,
            _ => 0,
        }
    }
}

/// A network in the making.
pub(super) struct Builder {
    pub tensors: Vec<Tensor>,
    pub layers: Vec<Layer>,
    /// Part of the layers to come.
    pub part: Part,
}

impl Builder {
    /// Only the images: three channels of `side`×`side`. Returns their number too.
    pub fn new(side: usize) -> (Builder, TensorId) {
        let images = Tensor {
            channels: 3,
            size: [side; 2],
        };
        let builder = Builder {
            tensors: vec![images],
            layers: Vec::new(),
            part: Part::Body,
        };
        (builder, TensorId(0))
    }

    pub fn tensor(&self, id: TensorId) -> Tensor {
        self.tensors[id.0]
    }

    pub fn channels(&self, id: TensorId) -> usize {
        self.tensor(id).channels
    }

    fn layer(&mut self, name: &str, kind: Kind, inputs: &[TensorId], result: Tensor) -> TensorId {
        let output = TensorId(self.tensors.len());
        self.tensors.push(result);
        self.layers.push(Layer {
            name: name.to_owned(),
            kind,
            inputs: inputs.to_vec(),
            output,
            part: self.part,
            channels: [self.channels(inputs[0]), result.channels],
        });
        output
    }

    /// The result of a window; callers check image sizes so that every window fits.
    fn windowed(&self, input: TensorId, window: &Window, channels: usize) -> Tensor {
        let size = window.over(self.tensor(input).size);
        Tensor {
            channels,
            size: size.expect("the design was checked: every window fits"),
        }
    }

    pub fn relu(&mut self, name: &str, input: TensorId) -> TensorId {
        let result = self.tensor(input);
        self.layer(name, Kind::Relu, &[input], result)
    }

    /// A convolution without bias.
    pub fn conv(&mut self, name: &str, input: TensorId, cout: usize, window: Window) -> TensorId {
        self.grouped(name, input, cout, window, 1)
    }

    /// A depthwise convolution without bias.
    pub fn depthwise(&mut self, name: &str, input: TensorId, window: Window) -> TensorId {
        let channels = self.channels(input);
        self.grouped(name, input, channels, window, channels)
    }

    fn grouped(
        &mut self,
        name: &str,
        input: TensorId,
        cout: usize,
        window: Window,
        groups: usize,
    ) -> TensorId {
        let result = self.windowed(input, &window, cout);
        let kind = Kind::Convolution {
            window,
            groups,
            bias: false,
        };
        self.layer(name, kind, &[input], result)
    }

    pub fn norm(&mut self, name: &str, input: TensorId) -> TensorId {
        let result = self.tensor(input);
        self.layer(name, Kind::BatchNorm, &[input], result)
    }

    pub fn max_pool(&mut self, name: &str, input: TensorId, window: Window) -> TensorId {
        let result = self.windowed(input, &window, self.channels(input));
        self.layer(name, Kind::MaxPool(window), &[input], result)
    }

    pub fn average_pool(&mut self, name: &str, input: TensorId, window: Window) -> TensorId {
        let result = self.windowed(input, &window, self.channels(input));
        self.layer(name, Kind::AveragePool(window), &[input], result)
    }

    pub fn crop(&mut self, name: &str, input: TensorId) -> TensorId {
        let mut result = self.tensor(input);
        result.size = result.size.map(|side| side - 1);
        self.layer(name, Kind::Crop, &[input], result)
    }

    pub fn zero(&mut self, name: &str, input: TensorId, stride: usize) -> TensorId {
        let mut result = self.tensor(input);
        result.size = result.size.map(|side| side.div_ceil(stride));
        self.layer(name, Kind::Zero { stride }, &[input], result)
    }

    /// The sum of terms, each with whether drop-path may drop it.
    pub fn sum(&mut self, name: &str, terms: &[(TensorId, bool)]) -> TensorId {
        let (inputs, drop_path): (Vec<_>, Vec<_>) = terms.iter().copied().unzip();
        let result = self.tensor(inputs[0]);
        self.layer(name, Kind::Sum { drop_path }, &inputs, result)
    }

    pub fn concatenate(&mut self, name: &str, inputs: &[TensorId]) -> TensorId {
        let channels = inputs.iter().map(|&input| self.channels(input)).sum();
        let size = self.tensor(inputs[0]).size;
        self.layer(name, Kind::Concatenate, inputs, Tensor { channels, size })
    }

    pub fn global_average(&mut self, name: &str, input: TensorId) -> TensorId {
        let channels = self.channels(input);
        let result = Tensor {
            channels,
            size: [1, 1],
        };
        self.layer(name, Kind::GlobalAverage, &[input], result)
    }

    pub fn linear(&mut self, name: &str, input: TensorId, cout: usize) -> TensorId {
        let result = Tensor {
            channels: cout,
            size: [1, 1],
        };
        self.layer(name, Kind::Linear, &[input], result)
    }

    /// relu → convolution → batch norm: `ReLUConvBN` of both official codes.
    pub fn relu_conv_norm(
        &mut self,
        name: &str,
        input: TensorId,
        cout: usize,
        window: Window,
    ) -> TensorId {
        let x = self.relu(&format!("{name}.op.0"), input);
        let x = self.conv(&format!("{name}.op.1"), x, cout, window);
        self.norm(&format!("{name}.op.2"), x)
    }
}
