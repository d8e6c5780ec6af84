"""The final network: a backbone and a segmentation head, trained on masks that earlier steps made."""
