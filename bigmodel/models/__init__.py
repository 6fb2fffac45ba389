"""Model families: one file each, and the table of them."""

from bigmodel.models import decoder, dit, masked_autoencoder, vit

# name in a config -> (the module whose fields are the config's, what makes the handle)
FAMILIES = {
    "decoder": (decoder.Decoder, decoder.make),
    "dit": (dit.DiT, dit.make),
    "masked_autoencoder": (
        masked_autoencoder.MaskedAutoencoder,
        masked_autoencoder.make,
    ),
    "vit": (vit.ViT, vit.make),
}
