"""How tokens lie in the image: some before the patches, then the patches row by row."""

from xseg.classifier.model import Classifier


def arrangement(classifier: Classifier, size: tuple[int, int], count: int) -> tuple[int, tuple[int, int]] | None:
    """The number of tokens before the patches, and the grid (h,w) of these; None if they are no grid over the image.

    Args:
        classifier: whose network may know the number (`num_prefix_tokens` in timm) and the grid.
        size: (height, width) of the image in pixels.
        count: number of tokens.
    """
    known = getattr(classifier.net, "num_prefix_tokens", None)
    prefixes = (0, 1, 2) if known is None else (int(known), 0)
    embed = getattr(classifier.net, "patch_embed", None)
    if callable(grid_of := getattr(embed, "dynamic_feat_size", None)):
        height, width = grid_of(size)
        for prefix in prefixes:
            if height * width == count - prefix:
                return prefix, (height, width)
    # Tokens of a coarser grid, or of a network that does not say how many patches it cuts.
    guessed = ((prefix, _guess(size, count - prefix)) for prefix in prefixes)
    return next(((prefix, grid) for prefix, grid in guessed if grid is not None), None)


def _guess(size: tuple[int, int], patches: int) -> tuple[int, int] | None:
    """The (h,w) with h w = `patches` that square patches of some whole side make of the image; None if there is none.

    What does not fill a patch at the edge is left out or padded.
    """
    for side in range(1, min(size) + 1):
        for height, width in (
            (size[0] // side, size[1] // side),
            (-(-size[0] // side), -(-size[1] // side)),
        ):
            if height * width == patches:
                return height, width
    return None
