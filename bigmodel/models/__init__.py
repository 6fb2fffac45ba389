"""Model families: one file each, and the table of them."""

from bigmodel.models import (
    decoder,
    dit,
    encoder,
    encoder_decoder,
    masked_autoencoder,
    recommender,
    speech,
    speech_encoder,
    two_towers,
    vision_language,
    vit,
)

# name in a config -> (what has the fields of the config, what makes the handle)
FAMILIES = {
    "decoder": (decoder.Decoder, decoder.make),
    "dit": (dit.DiT, dit.make),
    "encoder": (encoder.Encoder, encoder.make),
    "encoder_decoder": (encoder_decoder.EncoderDecoder, encoder_decoder.make),
    "masked_autoencoder": (
        masked_autoencoder.MaskedAutoencoder,
        masked_autoencoder.make,
    ),
    "recommender": (recommender.Recommender, recommender.make),
    "speech": (speech.Speech, speech.make),
    "speech_encoder": (speech_encoder.SpeechEncoder, speech_encoder.make),
    "two_towers": (two_towers.TwoTowers, two_towers.make),
    "vision_language": (vision_language.FIELDS, vision_language.make),
    "vit": (vit.ViT, vit.make),
}
