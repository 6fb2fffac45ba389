"""Model families: one file each, and the table of them."""

from bigmodel.models import decoder, two_towers, vit

# name in a config -> (the module whose fields are the config's, what makes the handle)
FAMILIES = {
    "decoder": (decoder.Decoder, decoder.make),
    "two_towers": (two_towers.TwoTowers, two_towers.make),
    "vit": (vit.ViT, vit.make),
}
