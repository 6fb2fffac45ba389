"""Model families: one file each, and the table of them."""

from bigmodel.models import decoder, encoder_decoder, vit

# name in a config -> (the module whose fields are the config's, what makes the handle)
FAMILIES = {
    "decoder": (decoder.Decoder, decoder.make),
    "encoder_decoder": (encoder_decoder.EncoderDecoder, encoder_decoder.make),
    "vit": (vit.ViT, vit.make),
}
