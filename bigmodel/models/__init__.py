"""Model families: one file each, and the table of them."""

from bigmodel.models import decoder, encoder, encoder_decoder, recommender, vit

# name in a config -> (the module whose fields are the config's, what makes the handle)
FAMILIES = {
    "decoder": (decoder.Decoder, decoder.make),
    "encoder": (encoder.Encoder, encoder.make),
    "encoder_decoder": (encoder_decoder.EncoderDecoder, encoder_decoder.make),
    "recommender": (recommender.Recommender, recommender.make),
    "vit": (vit.ViT, vit.make),
}
