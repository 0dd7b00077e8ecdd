"""Instance masks as COCO annotates them."""

import numpy as np


def coco_mask(mask: np.ndarray) -> dict:
    """``segmentation`` (run lengths), ``area`` and ``bbox`` of a mask ``(H, W)`` of bool."""
    from pycocotools import mask as coco

    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    box = coco.toBbox(code).tolist()
    return dict(segmentation=dict(size=code['size'], counts=code['counts'].decode()), area=int(mask.sum()), bbox=box)
