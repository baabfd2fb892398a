"""WHAT IS RUN: presets, the plan, one function per stage, and the tools around them.

    images, seen labels, CLIP --extract--> tokens, dense, text
    dense, images, CLIP --mine-latent--> latent (cells, local tokens)
    images, seen labels, tokens, latent, text --train--> student          no CLIP from here on
    student, text --eval--> report         student --predict, export--> masks, ONNX

pipeline/ says what is run, stages/ what each step does, stages/parts/ how, cache/ what lies between steps; imports
point down only. The public Python interface is `import clip2seg`.
"""
