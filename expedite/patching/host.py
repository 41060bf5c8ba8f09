"""What a patcher finds out about a model: its blocks, its grid of tokens and what its head reads.

How the blocks are made to run on clusters is `session`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from torch import Tensor, nn

from expedite.errors import ExpediteError
from expedite.patching.weak import weakly
from expedite.plan import Depth

# Along one side of a map: tokens, tokens of a window, clusters, clusters of a window.
Side = tuple[int, int, int, int, bool]

# What the head reads of the last block's output when the whole model is called: the prefix tokens
# alone, the mean of all others, every token, or nothing that is not among the call's taps.
Readout = Literal["prefix", "mean", "tokens", "taps"]


@dataclass(frozen=True)
class Reads:
    """What a call reads of the blocks: outputs at `taps`, and the last one's."""

    taps: frozenset[int] = frozenset()
    last: bool = True

    def and_those_of(self, other: "Reads") -> "Reads":
        """What one or the other reads."""
        return Reads(self.taps | other.taps, self.last or other.last)


@dataclass(frozen=True)
class Method:
    """A method that people call beside the model itself.

    `reads` takes the model and the arguments of a call.
    """

    name: str
    reads: Callable[..., Reads]


@weakly("last", "blocks")
@dataclass(frozen=True)
class TokenHead:
    """A head that works token by token, so that it can run on clusters.

    `blocks` attend among the tokens and `queries` more at their end; `last` is the module whose
    output (B, N, classes) is the head's, still one row a token.
    """

    last: nn.Module
    blocks: tuple[nn.Module, ...] = ()
    queries: int = 0


def attribute(module: nn.Module, name: str) -> Any:
    """An attribute that a library gives its module, of a type that `nn.Module` does not tell."""
    return getattr(module, name)


def class_names(module: nn.Module) -> set[str]:
    """Full names of a module's class and its bases: a library is known without importing it."""
    return {f"{kind.__module__}.{kind.__name__}" for kind in type(module).__mro__}


def own_class(module: nn.Module) -> type[nn.Module]:
    """A module's class; where PyTorch put one of its own in front (FSDP2), the one behind it."""
    kind = type(module)
    while kind.__bases__[0].__module__.startswith("torch.distributed."):
        kind = kind.__bases__[-1]
    return kind


def inner(block: nn.Module, library: str) -> nn.Module:
    """A library's block inside of what others wrapped around it: torch.compile, FSDP and the like.

    Raises:
        ExpediteError: There is something else.
    """
    found = block
    while not any(kind.__module__.startswith(library) for kind in type(found).__mro__):
        children = list(found.children())
        if len(children) != 1:
            raise ExpediteError(
                f"a block of class {type(block).__module__}.{type(block).__name__} was found where "
                f"one of {library.rstrip('.')} is due; a wrapper around one alone can be seen "
                "through, and host= says where other blocks are"
            )
        found = children[0]
    return found


def kind_of(module: nn.Module, kinds: Iterable[str]) -> str | None:
    """The first of these full names of classes that a module has."""
    names = class_names(module)
    return next((kind for kind in kinds if kind in names), None)


def kind_or_copy(
    module: nn.Module, kinds: Iterable[str], original: str | None
) -> tuple[str, str] | None:
    """The first of these full names of classes that a module has, and the package that it is of.

    `original` is the one of which a module of none is a copy in some other package.
    """
    if (name := kind_of(module, kinds)) is not None:
        return name, name.partition(".")[0]
    package = own_class(module).__module__.partition(".")[0]
    return None if original is None else (original, package)


def runs_as(module: nn.Module, library: str, *methods: str) -> bool:
    """Whether methods of a module are a library's own: others may read blocks in ways unknown."""
    return all(getattr(type(module), name).__module__.startswith(library) for name in methods)


def apply_child(block: nn.Module, tokens: Tensor, name: str) -> Tensor:
    """What a block's child, such as its first norm, makes of tokens."""
    output: Tensor = block.get_submodule(name)(tokens)
    return output


def map_grid(embedding: nn.Module, args: tuple[Any, ...], output: Tensor) -> tuple[int, int]:
    """The grid of an embedding that puts out a map (B, C, H, W)."""
    return output.shape[-2], output.shape[-1]


def map_of_tokens(embedding: nn.Module, args: tuple[Any, ...], output: Tensor) -> tuple[int, int]:
    """The grid of an embedding that puts out a map (B, H, W, C)."""
    return output.shape[1], output.shape[2]


def every_token(model: nn.Module) -> Readout:
    """The readout of a head that reads every token."""
    return "tokens"


def nothing_more(model: nn.Module, *args: Any, **kwargs: Any) -> Reads:
    """What a call reads that reads the last block's output alone."""
    return Reads()


def found_in(args: tuple[Any, ...], kwargs: dict[str, Any], name: str, position: int | None) -> Any:
    """An argument of a call, None if it was not given."""
    if position is not None and len(args) > position:
        return args[position]
    return kwargs.get(name)


def placed_in(
    args: tuple[Any, ...], kwargs: dict[str, Any], name: str, position: int | None, value: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with another value for one of them."""
    if position is not None and len(args) > position:
        return (*args[:position], value, *args[position + 1 :]), kwargs
    return args, {**kwargs, name: value}


def _itself(block: nn.Module) -> nn.Module:
    return block


@dataclass(frozen=True)
class Mask:
    """Where a block takes what is added to its attention scores.

    Args:
        argument: The keyword.
        position: Where it stands among positional arguments; None where it is always a keyword.
        over: "scores" for a mask of shape (B, 1, 1, keys), "keys" for (B, keys).
        module: Maps a block to the module that has the keyword, most often the block itself.
        made_for_exports: Whether the library itself makes a mask, of booleans that are all true,
            while a graph is exported.
    """

    argument: str
    position: int | None = 1
    over: Literal["scores", "keys"] = "scores"
    module: Callable[[nn.Module], nn.Module] = _itself
    made_for_exports: bool = False

    def find(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What stands there in a call, None if nothing does."""
        return found_in(args, kwargs, self.argument, self.position)


@dataclass(frozen=True)
class Attention:
    """Attention of a block that takes no mask or no positions of each image, and what does so.

    Args:
        module: Maps a block to the module that attends.
        attend: Its output, given itself, a mask (B, 1, 1, keys) and the arguments of its call. The
            mask is None where clusters do not weigh by their mass and have rotary positions.
    """

    module: Callable[[nn.Module], nn.Module]
    attend: Callable[..., Any]


@dataclass(frozen=True)
class Cells:
    """The map of clusters that a block of a host with windows is to run on.

    Args:
        grid: (H, W) of the tokens, with padding where that was clustered too.
        window: Tokens of a window.
        clusters: (h, w) of the map.
        cells: Clusters of a window.
        borders: Whether every window was clustered alone.
        keeps_shift: Whether shifted windows are masked as for the shift of the tokens' windows.
        log_mass: (B, h, w) what every cluster adds to its attention scores as a key; None where
            clusters do not weigh by their mass.
        resized: Whether tables of relative positions are resized as the published code does.
        places: (B, h, w, 2) row and column in tokens where the clusters of each image stand on
            average; None where the host does not ask for them.
    """

    grid: tuple[int, int]
    window: tuple[int, int]
    clusters: tuple[int, int]
    cells: tuple[int, int]
    borders: bool
    keeps_shift: bool
    log_mass: Tensor | None
    resized: bool
    places: Tensor | None = None

    @property
    def sides(self) -> tuple[Side, ...]:
        """The rows', then the columns'."""
        sides = zip(self.grid, self.window, self.clusters, self.cells, strict=True)
        return tuple((*side, self.borders) for side in sides)


@dataclass(frozen=True)
class Rotary:
    """How blocks are given rotary positions.

    Args:
        argument: The keyword.
        split: Maps what stands there to sines and cosines, each (N, D) or (heads, N, D).
        join: The inverse.
        position: Where it stands among positional arguments; None where it is always a keyword.
        of_each: Whether every block has positions of its own, and not all the same.
        prefix: How many rows stand before those of the grid's tokens.
        second: The keyword of what stands behind it, where positions are two arguments.
    """

    argument: str
    split: Callable[[Any], tuple[Tensor, Tensor]]
    join: Callable[[Tensor, Tensor], Any]
    position: int | None = None
    of_each: bool = False
    prefix: int = 0
    second: str | None = None

    @property
    def _slots(self) -> list[tuple[str, int | None]]:
        names = [self.argument] if self.second is None else [self.argument, self.second]
        at = self.position
        return [(name, None if at is None else at + i) for i, name in enumerate(names)]

    def find(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What stands there in a call, None if nothing does; two arguments as a tuple."""
        found = tuple(found_in(args, kwargs, *slot) for slot in self._slots)
        return found[0] if self.second is None or found[0] is None else found

    def place(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], positions: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with other positions."""
        values = (positions,) if self.second is None else positions
        for slot, value in zip(self._slots, values, strict=True):
            args, kwargs = placed_in(args, kwargs, *slot, value)
        return args, kwargs


@weakly("shared")
@dataclass(frozen=True)
class Bias:
    """How blocks add to attention scores what depends on the offset between two tokens.

    What makes a bias is a module with a table, and its method: a block's own, or one for all
    blocks, whose output each of them takes in place of a mask.

    Args:
        method: The name of the makers' method.
        own: Maps a block to the maker of its bias, None where it has none of its own.
        shared: The maker of the bias for all blocks.
        table: Maps a maker and a grid (H, W) to its table, laid out as `bias.cluster_bias` has it,
            or `bias.window_bias` where no token stands before the grid's.
        of_each_image: Whether what differs between images is added to a block's own bias in place.
        stands_alone: Whether a block adds its own bias in place of a mask, and not beside it.
        shared_method: The name of the method of the maker for all blocks.
    """

    method: str
    own: Callable[[nn.Module], nn.Module | None]
    shared: nn.Module | None
    table: Callable[[nn.Module, tuple[int, int]], Tensor]
    of_each_image: bool = False
    stands_alone: bool = False
    shared_method: str = "forward"


@dataclass(frozen=True)
class Stage:
    """Blocks of one width on a map of one size.

    Args:
        depth: How many blocks.
        window: Rows and columns of their windows; None where they attend everywhere and the whole
            map is clustered at once.
        scale: Along each side, how many tokens of the embedding stand for one of these.
        is_whole: Whether its blocks run on all tokens whatever the plan, such as one that pools.
        rounds_up: Whether a rest of tokens stands for one more.
        dealt: Where tokens do not come row by row, how often they were dealt out and to how many
            rows and columns, see `geometry.units`.
    """

    depth: int
    window: tuple[int, int] | None
    scale: int
    is_whole: bool = False
    rounds_up: bool = True
    dealt: tuple[int, int, int] = (0, 1, 1)

    def grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Its map, where the embedding makes one of `grid`."""
        rest = self.scale - 1 if self.rounds_up else 0
        return (grid[0] + rest) // self.scale, (grid[1] + rest) // self.scale


@dataclass(frozen=True)
class Packing:
    """How blocks take tokens that come neither as (B, N, C) nor as maps (B, H, W, C).

    Args:
        open: Maps what a block takes, the grid that its tokens have in each image, and whether that
            is the full one or that of clusters, to one of the two, row by row.
        close: The inverse.
    """

    open: Callable[[Tensor, tuple[int, int], bool], Tensor]
    close: Callable[[Tensor, tuple[int, int], bool], Tensor]


@weakly("module")
@dataclass(frozen=True)
class Injection:
    """A module between blocks that adds to their tokens what it finds elsewhere.

    Its first argument is the tokens (B, prefix + N, C), of which it puts out as many. Between
    blocks that run on clusters it asks either with the clusters, where they stand, or with the
    reconstructed tokens; the clusters are then given the mean of what was added to theirs.

    Args:
        module: The module.
        places: Which positional argument says where tokens stand, (B or 1, N, 2) across and down as
            shares of the image; None where the module is to have reconstructed tokens.
    """

    module: nn.Module
    places: int | None = None


@dataclass(frozen=True)
class Queries:
    """Tokens that join in front of all others on the way, such as those of a segmenter.

    Args:
        before: The index of the first block that runs on them.
        count: How many.
        masked: Whether blocks may be handed a mask (B, heads, N, N) that says to which tokens each
            query attends, and leaves all other tokens alone.
    """

    before: int
    count: int
    masked: bool = False


@weakly("rope")
@dataclass(frozen=True)
class Views:
    """How blocks attend to several views of a scene, the first of which stays whole.

    Args:
        layout: Maps the model and the arguments of a call, a tuple and a dictionary, to how many
            views, S, each scene has, and to the grid (H, W) of a view.
        joint: The indices of blocks that take all views of a scene in one row,
            (B, S·(prefix + N), C); the others take them as images, (B·S, prefix + N, C).
        positions: The keyword by which blocks take the row and column of every token, whole
            numbers (B·S, prefix + N, 2) or (B, S·(prefix + N), 2).
        rope: What turns queries and keys by these; None where nothing does.
        turn: What it makes of positions between whole numbers, given itself, queries or keys
            (B, heads, n, d) and positions (B, n, 2).
        first: The index of the first block with which a span can begin.
    """

    layout: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], tuple[int, tuple[int, int]]]
    joint: frozenset[int]
    positions: str
    rope: nn.Module | None
    turn: Callable[[nn.Module, Tensor, Tensor], Tensor]
    first: int = 0


@weakly("model", "backbone", "blocks", "embedding", "projection", "pooled")
@dataclass(frozen=True)
class Host:
    """A model as the patchers see it. It does not keep the model's modules.

    Args:
        family: What kind of model it is, for people.
        model: The whole; calling it runs the head as well.
        backbone: The part whose output is the tokens; may be the model itself.
        blocks: In the order they run, each (B, prefix + N, C) → the same; a host with windows has
            blocks (B, H, W, C) → the same.
        prefix_tokens: How many tokens before the grid's are never clustered.
        suffix_tokens: How many behind them are not.
        queries: Set where more tokens join before the prefix on the way.
        adds_between: Whether the model adds to all tokens between blocks, such as positions; each
            block's output is then reconstructed, and clusters get the mean of what was added.
        embedding: The module that makes tokens of an image.
        projection: The convolution in it that others call in its place, whose output is a map of
            the grid.
        grid: Maps (embedding, its arguments, its output) to (H, W).
        usual_grid: (H, W) at the size of image that the model was made for.
        any_size: Whether it takes images of other sizes.
        first_norm: Maps a block and its tokens to what its first norm makes of them; to the tokens
            themselves where it has none.
        mask: How blocks take a mask that is added to attention scores; None where they cannot.
        attention: Set where blocks take no mask, and their attention can be done under one.
        rotary: Set where blocks rotate queries and keys by their positions.
        bias: Set where blocks add relative position biases; only hosts with a `mask` can.
        readout: What the head reads; looked up at every call, since heads can be exchanged.
        pooled: The module after which tokens are averaged, where the readout can be "mean".
        reads: Maps the model or the backbone and the arguments of a call to what the call reads.
        methods: Other ways of calling the backbone.
        taps: Who reads outputs of blocks inside a span, for people.
        head: Set where reconstruction can wait until after the head.
        window: Rows and columns of the windows in which most blocks attend, each of which is
            clustered alone; None where blocks attend to everything. Set together with `run`. Of
            several stages, that of the one with the most blocks.
        run: Runs a block on a map of clusters (B, h, w, C), for blocks that cannot do so by
            themselves, given also the keywords of the call; returns what the block returns.
        asks_places: Whether `run` asks where the clusters of each image stand.
        stages: Set where maps shrink between blocks, or something between them reads all tokens. A
            span lies within a stage; blocks may take and return (B, H·W, C). All of them have
            windows, or none.
        moves: Whether clusters of windows move from their cells unless a plan says otherwise.
        hands_masks: Whether the model hands its blocks masks of its own making, for windows or
            images, in place of which `run` or `attention` makes those for clusters.
        injections: Modules between blocks that change tokens. The blocks before them are taps.
        packing: Set where blocks take tokens in a shape of their own.
        local: Maps a block to what it adds at its end to tokens by mixing neighbours, such as by
            convolutions, and `run` leaves out: asked with reconstructed tokens, of which clusters
            get the means. None where a block adds nothing.
        views: Set where some blocks attend to several views of a scene.
    """

    family: str
    model: nn.Module
    backbone: nn.Module
    blocks: tuple[nn.Module, ...]
    prefix_tokens: int
    embedding: nn.Module
    grid: Callable[[nn.Module, tuple[Any, ...], Tensor], tuple[int, int]]
    usual_grid: tuple[int, int]
    any_size: bool
    first_norm: Callable[[nn.Module, Tensor], Tensor]
    mask: Mask | None
    readout: Callable[[nn.Module], Readout]
    projection: nn.Module | None = None
    attention: Attention | None = None
    rotary: Rotary | None = None
    bias: Bias | None = None
    pooled: nn.Module | None = None
    reads: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Reads] = nothing_more
    methods: tuple[Method, ...] = ()
    taps: str = "none"
    head: TokenHead | None = None
    window: tuple[int, int] | None = None
    run: Callable[[nn.Module, Tensor, Cells, dict[str, Any]], Any] | None = None
    asks_places: bool = False
    stages: tuple[Stage, ...] = ()
    moves: bool = False
    hands_masks: bool = False
    injections: tuple[Injection, ...] = ()
    suffix_tokens: int = 0
    queries: Queries | None = None
    adds_between: bool = False
    packing: Packing | None = None
    local: Callable[[nn.Module], Callable[[Tensor], Tensor] | None] | None = None
    views: Views | None = None

    def beside(self, index: int) -> tuple[int, int]:
        """How many tokens stand before and behind the grid's in what block `index` runs on."""
        joined = self.queries is not None and index >= self.queries.before
        before = self.prefix_tokens + (self.queries.count if self.queries and joined else 0)
        return before, self.suffix_tokens

    @property
    def depth(self) -> Depth:
        """How many blocks; of every stage, where there are stages."""
        return tuple(stage.depth for stage in self.stages) or len(self.blocks)

    @property
    def windows(self) -> tuple[tuple[int, int], ...]:
        """The windows of every stage, of the blocks where there are no stages."""
        one = () if self.window is None else (self.window,)
        return tuple(stage.window for stage in self.stages if stage.window) or one

    def grids(self, grid: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """The map of every stage, where the embedding makes one of `grid`."""
        return tuple(stage.grid(grid) for stage in self.stages) or (grid,)

    def stage_of(self, index: int) -> int:
        """The number of a block's stage, from 0."""
        ends = accumulate(stage.depth for stage in self.stages[:-1])
        return sum(index >= end for end in ends)
