"""What the authors of published rewards save, name by name.

"#" stands for a layer's number and "{a,b}" for either word. `READ` is what we
read, and all of it has to be there; `UNREAD` may be there and is left out.
Taken from the `state_dict` of the authors' classes, or of files that older
versions of them have saved; `test_public_names` asks those it can get.
"""

import itertools
import re

_WB = "{weight,bias}"
_HF_LAYERS = (
  f"encoder.layers.#.{{layer_norm1,layer_norm2}}.{_WB}",
  f"encoder.layers.#.self_attn.{{q_proj,k_proj,v_proj,out_proj}}.{_WB}",
  f"encoder.layers.#.mlp.{{fc1,fc2}}.{_WB}",
)


def _under(prefix, names):
  return tuple(prefix + name for name in names)


_CLIP_TEXT = (
  *_under("text_model.", _HF_LAYERS),
  "text_model.embeddings.{token_embedding,position_embedding}.weight",
  f"text_model.final_layer_norm.{_WB}",
  "text_projection.weight",
)
_CLIP_VISION = (
  *_under("vision_model.", _HF_LAYERS),
  "vision_model.embeddings.class_embedding",
  "vision_model.embeddings.{patch_embedding,position_embedding}.weight",
  f"vision_model.{{pre_layrnorm,post_layernorm}}.{_WB}",
  "visual_projection.weight",
)
_POSITION_IDS = "{text_model,vision_model}.embeddings.position_ids"
_BLOCKS = (
  f"resblocks.#.{{ln_1,ln_2}}.{_WB}",
  "resblocks.#.attn.{in_proj_weight,in_proj_bias}",
  f"resblocks.#.attn.out_proj.{_WB}",
  f"resblocks.#.mlp.{{c_fc,c_proj}}.{_WB}",
)
_BERT = (
  "embeddings.{word_embeddings,position_embeddings}.weight",
  f"embeddings.LayerNorm.{_WB}",
  f"encoder.layer.#.{{attention,crossattention}}.self.{{query,key,value}}.{_WB}",
  f"encoder.layer.#.{{attention,crossattention}}.output.{{dense,LayerNorm}}.{_WB}",
  f"encoder.layer.#.{{intermediate,output}}.dense.{_WB}",
  f"encoder.layer.#.output.LayerNorm.{_WB}",
)
_HEAD = f"layers.{{0,2,4,6,7}}.{_WB}"
_NORM = "{weight,bias,running_mean,running_var}"

READ = {
  # transformers.CLIPModel: OpenAI's, LAION's, PickScore_v1
  "clip": (*_CLIP_TEXT, *_CLIP_VISION, "logit_scale"),
  # open_clip.CLIP: LAION's, DFN, HPSv2 and HPSv2.1
  "open_clip": (
    *_under("transformer.", _BLOCKS),
    *_under("visual.transformer.", _BLOCKS),
    "token_embedding.weight", "positional_embedding", f"ln_final.{_WB}",
    "text_projection", "logit_scale",
    "visual.{class_embedding,positional_embedding,proj}",
    "visual.conv1.weight", f"visual.{{ln_pre,ln_post}}.{_WB}",
  ),
  # ImageReward.ImageReward
  "image_reward": (
    *_under("blip.text_encoder.", _BERT),
    "blip.visual_encoder.{cls_token,pos_embed}",
    f"blip.visual_encoder.{{patch_embed.proj,norm}}.{_WB}",
    f"blip.visual_encoder.blocks.#.{{norm1,norm2}}.{_WB}",
    f"blip.visual_encoder.blocks.#.{{attn.qkv,attn.proj}}.{_WB}",
    f"blip.visual_encoder.blocks.#.{{mlp.fc1,mlp.fc2}}.{_WB}",
    f"mlp.{_HEAD}",
  ),
  # transformers.SiglipModel, and Siglip2Model with a linear patch_embedding
  "siglip": (
    *_under("{text_model,vision_model}.", _HF_LAYERS),
    "text_model.embeddings.{token_embedding,position_embedding}.weight",
    f"text_model.{{final_layer_norm,head}}.{_WB}",
    f"vision_model.embeddings.patch_embedding.{_WB}",
    "vision_model.embeddings.position_embedding.weight",
    f"vision_model.post_layernorm.{_WB}",
    "vision_model.head.probe",
    "vision_model.head.attention.{in_proj_weight,in_proj_bias}",
    f"vision_model.head.{{attention.out_proj,layernorm,mlp.fc1,mlp.fc2}}.{_WB}",
    "logit_{scale,bias}",
  ),
  # transformers.Dinov2Model
  "dinov2": (
    "embeddings.{cls_token,position_embeddings}",
    f"embeddings.patch_embeddings.projection.{_WB}",
    f"encoder.layer.#.{{norm1,norm2}}.{_WB}",
    f"encoder.layer.#.attention.attention.{{query,key,value}}.{_WB}",
    f"encoder.layer.#.{{attention.output.dense,mlp.fc1,mlp.fc2}}.{_WB}",
    "encoder.layer.#.{layer_scale1,layer_scale2}.lambda1",
    f"layernorm.{_WB}",
  ),
  # transformers.DINOv3ViTModel
  "dinov3": (
    "embeddings.{cls_token,register_tokens}",
    f"embeddings.patch_embeddings.{_WB}",
    f"layer.#.{{norm1,norm2}}.{_WB}",
    f"layer.#.attention.{{q_proj,v_proj,o_proj}}.{_WB}",
    "layer.#.attention.k_proj.weight",
    f"layer.#.mlp.{{up_proj,down_proj}}.{_WB}",
    "layer.#.{layer_scale1,layer_scale2}.lambda1",
    f"norm.{_WB}",
  ),
  # transformers.OwlViTForObjectDetection
  "owlvit": (
    *(
      f"owlvit.{name}".replace("layrnorm", "layernorm")
      for name in (*_CLIP_TEXT, *_CLIP_VISION, "logit_scale")
    ),
    f"layer_norm.{_WB}",
    f"class_head.{{dense0,logit_shift,logit_scale}}.{_WB}",
    f"box_head.{{dense0,dense1,dense2}}.{_WB}",
  ),
  # improved-aesthetic-predictor's MLP
  "aesthetic": (_HEAD,),
  # lpips.LPIPS(net="vgg")
  "lpips_vgg": (
    f"net.slice1.{{0,2}}.{_WB}", f"net.slice2.{{5,7}}.{_WB}",
    f"net.slice3.{{10,12,14}}.{_WB}", f"net.slice4.{{17,19,21}}.{_WB}",
    f"net.slice5.{{24,26,28}}.{_WB}",
    "{lin0,lin1,lin2,lin3,lin4}.model.1.weight",
  ),
  # lpips.LPIPS(net="alex")
  "lpips_alex": (
    f"net.{{slice1.0,slice2.3,slice3.6,slice4.8,slice5.10}}.{_WB}",
    "{lin0,lin1,lin2,lin3,lin4}.model.1.weight",
  ),
  # DISTS_pytorch.DISTS
  "dists": (
    "{alpha,beta}",
    f"stage1.{{0,2}}.{_WB}", f"stage2.{{5,7}}.{_WB}",
    f"stage3.{{10,12,14}}.{_WB}", f"stage4.{{17,19,21}}.{_WB}",
    f"stage5.{{24,26,28}}.{_WB}",
  ),
  # arcface_torch.backbones.iresnet.IResNet
  "iresnet": (
    "conv1.weight", "prelu.weight", f"{{bn1,bn2,features,fc}}.{_WB}",
    "{bn1,bn2,features}.{running_mean,running_var}",
    f"{{layer1,layer2,layer3,layer4}}.#.{{bn1,bn2,bn3}}.{_NORM}",
    "{layer1,layer2,layer3,layer4}.#.{conv1,conv2,prelu}.weight",
    "{layer1,layer2,layer3,layer4}.#.downsample.0.weight",
    f"{{layer1,layer2,layer3,layer4}}.#.downsample.1.{_NORM}",
  ),
}  # fmt: skip

UNREAD = {
  "clip": (_POSITION_IDS,),
  # The last three are whole numbers in the archives of openai/CLIP.
  "open_clip": (
    "attn_mask", "input_resolution", "context_length", "vocab_size",
  ),
  "image_reward": (
    f"blip.{{vision_proj,text_proj}}.{_WB}",
    "blip.text_encoder.embeddings.position_ids",
  ),
  "siglip": (_POSITION_IDS,),
  "dinov2": ("embeddings.mask_token",),
  "dinov3": ("embeddings.mask_token",),
  "owlvit": (f"owlvit.{_POSITION_IDS}", "box_bias"),
  "aesthetic": (),
  "lpips_vgg": (
    "{lins.0,lins.1,lins.2,lins.3,lins.4}.model.1.weight",
    "scaling_layer.{shift,scale}",
  ),
  "dists": (
    "{stage2.4,stage3.9,stage4.16,stage5.23}.filter", "mean", "std",
  ),
  "iresnet": (
    "{bn1,bn2,features}.num_batches_tracked",
    "{layer1,layer2,layer3,layer4}.#.{bn1,bn2,bn3}.num_batches_tracked",
    "{layer1,layer2,layer3,layer4}.#.downsample.1.num_batches_tracked",
  ),
}  # fmt: skip
UNREAD["lpips_alex"] = UNREAD["lpips_vgg"]


def spelt(names) -> set[str]:
  """Every name that the braces stand for."""
  found = set()
  for name in names:
    parts = re.split(r"\{([^}]*)\}", name)
    parts[1::2] = [part.split(",") for part in parts[1::2]]
    parts[::2] = [[part] for part in parts[::2]]
    found |= {"".join(choice) for choice in itertools.product(*parts)}
  return found


_LAYER = re.compile(r"\b(layers|layer|resblocks|blocks|layer[1-4])\.\d+\.")


def layers_as_one(names) -> set[str]:
  """Names with "#" for the layer's number."""
  keep = lambda m: m[0] if _is_head(m) else f"{m[1]}.#."
  return {_LAYER.sub(keep, name) for name in names}


def _is_head(match: re.Match) -> bool:
  """Whether it is the sequence of ImageReward's and the aesthetic head."""
  return match.string[: match.start()] in ("", "mlp.") and match[1] == "layers"
